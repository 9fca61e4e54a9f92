"""The ONNX Runtime engine: our scheduler over slots of one session."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lathe.artefact.errors import UserError
from lathe.artefact.family import is_family
from lathe.artefact.onnx.device import CPU, DEVICES, Device, check_installed
from lathe.artefact.onnx.graph_format import DATA_FILE, SHARED_DATA_FILE
from lathe.serving.backend import Observer, ServingBackend
from lathe.serving.decoding.tokenizer import Tokenizer
from lathe.serving.launch.family import serve_family
from lathe.serving.launch.kv_memory import kv_memory
from lathe.serving.launch.local import serve_locally
from lathe.serving.launch.registry import engines
from lathe.serving.launch.slots import check_no_flash_attention, end_tokens, slot_sizes
from lathe.serving.options import ServeOptions
from lathe.serving.scheduler.admission import Admission
from lathe.serving.scheduler.kv_budget import KVBudget, KVPool
from lathe.serving.scheduler.prefix_cache import PrefixCache
from lathe.serving.scheduler.scheduler import PREFILL_CHUNK, Scheduler
from lathe.serving.served_model import ServedModel

if TYPE_CHECKING:
    from lathe.artefact.onnx.runner import OnnxRunner


@engines.register("onnx")
def serve_onnx(model: Path, options: ServeOptions) -> None:
    """Serves a model, or all subnets of a family, until told to stop.

    Raises:
        UserError: the model or the options cannot be served.
    """
    check_no_flash_attention("onnx", options)
    check_installed(_device(options.device))
    if is_family(model):
        serve_family("onnx", open_subnets, model, options)
    else:
        serve_locally("onnx", open_onnx, model, options)


def open_onnx(
    artefact: ServedModel, tokenizer: Tokenizer, options: ServeOptions, observer: Observer
) -> ServingBackend:
    """Loads the graph and creates a scheduler over it.

    Raises:
        UserError: the graph or the options cannot be used.
    """
    return open_subnets({"": artefact}, tokenizer, options, {"": observer})[""]


def open_subnets(
    artefacts: Mapping[str, ServedModel],
    tokenizer: Tokenizer,
    options: ServeOptions,
    observers: Mapping[str, Observer],
) -> dict[str, ServingBackend]:
    """Loads graphs and creates a scheduler over each; they share the processor, the queue and the memory.

    Raises:
        UserError: a graph or the options cannot be used.
    """
    from lathe.artefact.onnx.runners_together import open_together
    from lathe.serving.launch.prompts import read_prompts

    opened = {name: partial(_runner, artefact, options) for name, artefact in artefacts.items()}
    runners = open_together(opened)
    prompt_engines = {
        name: read_prompts(runner, artefacts[name].graph, artefacts[name].digest, options)
        for name, runner in runners.items()
    }
    pool = KVPool(kv_memory(list(runners.values()), options))
    admission = Admission(max(runner.max_batch for runner in runners.values()) + options.max_queue)
    backends: dict[str, ServingBackend] = {}
    for name, runner in runners.items():
        observer, kept = observers[name], options.prefix_cache
        backends[name] = scheduler = Scheduler(
            runner,
            tokenizer.token_bytes,
            eos=end_tokens(artefacts[name], tokenizer),
            admission=admission,
            observer=observer,
            prefix_cache=PrefixCache(runner, observer, PREFILL_CHUNK, kept) if kept else None,
            kv_budget=KVBudget(runner, pool),
        )
        scheduler.prompt_engine = prompt_engines[name]
    return backends


def _runner(artefact: ServedModel, options: ServeOptions) -> OnnxRunner:
    from lathe.artefact.onnx.runner import OnnxRunner

    check_external_data(artefact)
    max_batch, max_length = slot_sizes(artefact, options)
    try:
        return OnnxRunner(
            artefact.graph,
            max_batch=max_batch,
            max_length=max_length,
            threads=options.threads,
            device=_device(options.device),
        )
    except MemoryError:
        raise UserError(
            f"no memory for {max_batch} sequences of {max_length} tokens",
            "Lower --max-batch or --max-length.",
        ) from None


def _device(name: str | None) -> Device:
    return CPU if name is None else DEVICES[name]


def check_external_data(artefact: ServedModel) -> None:
    """Checks that the graph reads weights from its own data file, and from that of its family, only.

    Raises:
        UserError: it does not.
    """
    import onnx

    try:
        model = onnx.load(artefact.graph, load_external_data=False)
    except Exception as error:
        raise UserError(f"{artefact.graph} is not an ONNX model: {error}", "Export it again.") from None
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location" and entry.value not in (DATA_FILE, SHARED_DATA_FILE):
                raise UserError(
                    f"{artefact.graph} reads weights from {entry.value[:80]!r}, which is not {DATA_FILE}",
                    "Export it again.",
                )
