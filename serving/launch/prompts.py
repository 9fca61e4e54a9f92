"""`lathe serve --prompts`: what reads the prompts of the onnx engine, as measured on this machine."""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx

from lathe.artefact.errors import UserError
from lathe.artefact.free_memory import free_bytes
from lathe.artefact.onnx.runner import OnnxRunner
from lathe.artefact.openvino.library import computes_bfloat16, openvino
from lathe.artefact.openvino.prompt_reader import OpenVinoReader
from lathe.serving.launch.reading_times import PIECE, SIZES, faster_from, kept_times
from lathe.serving.options import ServeOptions

ONNXRUNTIME, OPENVINO, OPENVINO_BF16, AUTO = "onnxruntime", "openvino", "openvino-bf16", "auto"
LEAD = 0.95
"""`auto` takes another than ONNX Runtime if that needs at most so much of its time."""
_COPIES, _LIBRARY = 2, 2**28
"""A second copy of the weights takes no more than so many times their bytes, and OpenVINO itself."""
_AGREES = {(False, OPENVINO): 1e-3, (False, OPENVINO_BF16): 0.1}
_ROUNDED_AGREES = 0.5
"""How far logits may be from ONNX Runtime's, over their spread (root mean squares); unrelated models are 1.4
apart. With rounded weights both engines also round what products read, each in its way."""

log = logging.getLogger("lathe.serving")


@dataclass(frozen=True)
class Setting:
    """A graph to read prompts of.

    Attributes:
        graph: its file.
        digest: what tells the model from others.
        threads: of the processor.
        positions: of the model.
        rounded: whether weights are stored in fewer bits.
    """

    graph: Path
    digest: str
    threads: int | None
    positions: int
    rounded: bool


def read_prompts(
    runner: OnnxRunner,
    graph: Path,
    digest: str,
    options: ServeOptions,
    clock: Callable[[], float] = time.perf_counter,
) -> str:
    """Gives a runner what `--prompts` asks for, says so in the log, and returns its name.

    Raises:
        UserError: it was asked for and cannot be had, or computes something else than ONNX Runtime.
    """
    wanted = options.prompts or ONNXRUNTIME
    if wanted == ONNXRUNTIME:
        return ONNXRUNTIME
    setting = Setting(graph, digest, options.threads, runner.positions, is_rounded(graph))
    try:
        candidate = _candidate(wanted, setting, runner, options)
        reader = _checked(candidate, setting, runner)
    except UserError as error:
        if wanted != AUTO:
            raise
        log.warning("prompts: onnxruntime; %s", error)
        return ONNXRUNTIME
    name, why = _measured(candidate, reader, setting, runner, clock, always=wanted != AUTO)
    log.warning("prompts: %s, %s", name, why)
    return name


def is_rounded(graph: Path) -> bool:
    """Returns whether a graph stores weights as bytes of whole numbers."""
    kinds = (onnx.TensorProto.UINT8, onnx.TensorProto.INT8)
    weights = onnx.load(graph, load_external_data=False).graph.initializer
    return any(tensor.data_type in kinds for tensor in weights)


def _candidate(wanted: str, setting: Setting, runner: OnnxRunner, options: ServeOptions) -> str:
    """Returns what may read prompts. `auto` leaves bfloat16 to weights that are rounded more coarsely.

    Raises:
        UserError: nothing but ONNX Runtime can.
    """
    if options.device not in (None, "cpu"):
        raise UserError(f"--prompts {wanted} is for the CPU", "Leave out --device or --prompts.")
    if wanted == AUTO and importlib.util.find_spec("openvino") is None:
        raise UserError("OpenVINO is not installed")
    openvino()
    needed, free = _COPIES * runner.weight_bytes + _LIBRARY, free_bytes()
    if needed > free:
        raise UserError(
            f"a second copy of the weights may take {needed >> 20} MiB, and {free >> 20} MiB are free",
            "Give --prompts onnxruntime.",
        )
    if wanted != AUTO:
        return wanted
    return OPENVINO_BF16 if setting.rounded and computes_bfloat16() else OPENVINO


def _checked(name: str, setting: Setting, runner: OnnxRunner) -> OpenVinoReader:
    """Compiles the graph and compares logits after a prompt.

    Raises:
        UserError: OpenVINO cannot run it, or computes something else.
    """
    reader = OpenVinoReader(setting.graph, setting.positions, setting.threads, half=name == OPENVINO_BF16)
    expected, found = (_read_some(runner, one, PIECE) for one in (None, reader))
    difference = float(np.sqrt(np.square(found - expected).mean()) / expected.std())
    if not difference <= _AGREES.get((setting.rounded, name), _ROUNDED_AGREES):
        raise UserError(
            f"OpenVINO's logits of {setting.graph} are {difference:.2g} of their spread from ONNX Runtime's",
            "Give --prompts onnxruntime.",
        )
    return reader


def _measured(
    name: str,
    reader: OpenVinoReader,
    setting: Setting,
    runner: OnnxRunner,
    clock: Callable[[], float],
    *,
    always: bool,
) -> tuple[str, str]:
    """Gives the runner its reader, if that is faster or `always`; returns what reads, and why."""
    sizes = [size for size in SIZES if size <= runner.max_length] or [runner.max_length]
    engines = {
        one: partial(_read_some, runner, reads) for one, reads in ((ONNXRUNTIME, None), (name, reader))
    }
    times, new = kept_times(engines, sizes, setting.digest, setting.threads, clock)
    own, others = times[name], times[ONNXRUNTIME]
    told = ", ".join(f"{one} {1e3 * found[sizes[-1]]:.3g} ms" for one, found in times.items())
    told = f"{sizes[-1]} tokens: {told}; {'measured now' if new else 'as measured before'}"
    if not always and own[sizes[-1]] > LEAD * others[sizes[-1]]:
        return ONNXRUNTIME, f"which is as fast here ({told})"
    reader.least = faster_from(own, others)
    runner.prompt_reader = reader
    return name, f"of {reader.least} tokens and more at a time ({told})"


def _read_some(runner: OnnxRunner, reader: OpenVinoReader | None, count: int) -> np.ndarray:
    """Reads some tokens in the empty first slot, which is left empty; returns the logits after the last."""
    tokens = np.arange(min(count, runner.max_length), dtype=np.int64) % runner.vocab_size
    runner.prompt_reader = reader
    try:
        return runner.prefill(0, tokens)
    finally:
        runner.prompt_reader = None
        runner.reset(0)
        runner.release(0)
