"""The llama.cpp engine: our scheduler over the sequences of one context."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from lathe.artefact.llamacpp.library import llama_cpp
from lathe.serving.backend import Observer, ServingBackend
from lathe.serving.decoding.tokenizer import Tokenizer
from lathe.serving.launch.engine_options import refuse_onnx_only
from lathe.serving.launch.local import serve_locally
from lathe.serving.launch.registry import engines
from lathe.serving.launch.slots import end_tokens, slot_sizes
from lathe.serving.options import ServeOptions
from lathe.serving.scheduler.admission import Admission
from lathe.serving.scheduler.scheduler import Scheduler
from lathe.serving.served_gguf import gguf_of, open_served_gguf
from lathe.serving.served_model import ServedModel

_ONNX_ONLY = ("device", "prefix_cache", "kv_cache_memory", "prompts", "switch", "slo")


@engines.register("llamacpp")
def serve_llamacpp(model: Path, options: ServeOptions) -> None:
    """Serves the GGUF export of an artefact, or any GGUF file, until told to stop.

    Raises:
        UserError: llama.cpp is missing, or the model or the options cannot be served.
    """
    check_options(options)
    llama_cpp()
    serve_locally("llamacpp", partial(open_llamacpp, gguf_of(model)), model, options, open_served_gguf)


def check_options(options: ServeOptions) -> None:
    """Checks that no option belongs to another engine only.

    Raises:
        UserError: one does.
    """
    refuse_onnx_only("llamacpp", options, _ONNX_ONLY)


def open_llamacpp(
    file: Path, artefact: ServedModel, tokenizer: Tokenizer, options: ServeOptions, observer: Observer
) -> ServingBackend:
    """Loads a GGUF file and creates a scheduler over it.

    Raises:
        UserError: the file or the options cannot be used.
    """
    from lathe.artefact.llamacpp.runner import LlamaCppRunner

    max_batch, max_length = slot_sizes(artefact, options)
    runner = LlamaCppRunner(
        file,
        max_batch=max_batch,
        max_length=max_length,
        threads=options.threads,
        flash=options.flash_attention,
    )
    return Scheduler(
        runner,
        tokenizer.token_bytes,
        eos=end_tokens(artefact, tokenizer),
        admission=Admission(max_batch + options.max_queue),
        observer=observer,
    )
