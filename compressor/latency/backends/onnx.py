"""ONNX Runtime on CPU, through the runner that serves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from lathe.artefact.onnx.graph_format import MODEL_FILE
from lathe.artefact.plan import Plan
from lathe.compressor.export.onnx.blockwise import Blockwise, arbitrary
from lathe.compressor.export.onnx.matrices import Matrices, Plain
from lathe.compressor.export.onnx.mixed import Mixed
from lathe.compressor.export.onnx.random import random_onnx
from lathe.compressor.export.onnx.writer import GraphWriter
from lathe.compressor.latency.backend import LatencyBackend, backends, with_int8_cache
from lathe.compressor.latency.workload import Workload
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.model.groups import BY_ERROR, GroupRule
from lathe.compressor.model.rounding import BITS

FormatOf = Callable[[Plan, GroupRule], Callable[[GraphWriter], Matrices]]
"""Returns what makes the matrices of a plan's graph; quantized ones have their groups by the rule."""


class OnnxBackend:
    """Decode steps keep the cache at the workload's context: each step overwrites the same position.

    Attributes:
        int8_cache: Whether keys and values are kept in 8 bits.
        nested: Whether graphs are laid out as those of a family.
    """

    def __init__(
        self,
        export: str,
        format_of: FormatOf = lambda _plan, _groups: Plain,
        groups: GroupRule = BY_ERROR,
        int8_cache: bool = False,
        nested: bool = False,
    ) -> None:
        name = with_int8_cache(export) if int8_cache else export
        name += "" if groups == BY_ERROR else f"-{groups}"
        self.name = f"{name}-nested" if nested else name
        self.export, self.int8_cache, self.nested = export, int8_cache, nested
        self._format_of, self._groups = format_of, groups

    def laid_out(self, groups: GroupRule, nested: bool) -> OnnxBackend:
        """Returns this backend with another rule and layout, and a name of its own."""
        return OnnxBackend(self.export, self._format_of, groups, self.int8_cache, nested)

    def build(self, directory: Path, source: Checkpoint, plan: Plan, layers: int) -> None:
        config = {**source.config, "num_hidden_layers": layers}
        matrices = self._format_of(plan, self._groups)
        random_onnx(
            directory,
            config,
            source.family,
            plan,
            matrices=matrices,
            int8_cache=self.int8_cache,
            nested=self.nested,
        )

    def prepare(self, directory: Path, workload: Workload, threads: int | None) -> Callable[[], None]:
        from lathe.artefact.onnx.runner import OnnxRunner

        runner = OnnxRunner(
            directory / MODEL_FILE,
            max_batch=workload.batch_size,
            max_length=workload.context + 1,
            threads=threads,
        )
        if workload.metric == "ttft":
            prompt = np.arange(workload.context) % runner.vocab_size

            def prefill() -> None:
                runner.reset(0)
                runner.prefill(0, prompt).argmax(-1)

            return prefill
        runner.fill(workload.context + 1)
        tokens = np.zeros(workload.batch_size, dtype=np.int64)

        def decode() -> None:
            runner.lengths[:] = workload.context
            runner.decode(tokens).argmax(-1)

        return decode

    def versions(self) -> dict[str, str]:
        import onnxruntime

        return {"onnxruntime": onnxruntime.__version__, "provider": "CPUExecutionProvider"}


def laid_out(backend: LatencyBackend, groups: GroupRule, nested: bool) -> LatencyBackend:
    """Returns a backend whose graphs, if it runs some, have groups by a rule, and perhaps are nested."""
    return backend.laid_out(groups, nested) if isinstance(backend, OnnxBackend) else backend


def _in_bits(bits: int) -> FormatOf:
    """Returns the format of graphs whose blocks all have so many bits, whatever a plan says."""
    return lambda _plan, groups: partial(Blockwise, bits=bits, quantize=partial(arbitrary, rule=groups))


def _mixed(plan: Plan, groups: GroupRule) -> Callable[[GraphWriter], Matrices]:
    return partial(Mixed, plan=plan, quantize=partial(arbitrary, rule=groups))


_FORMATS: dict[str, FormatOf] = {
    "onnx": lambda _plan, _groups: Plain,
    **{f"onnx-int{bits}": _in_bits(bits) for bits in BITS},
    "onnx-mixed": _mixed,
}
"""By exporter."""

for _export, _format_of in _FORMATS.items():
    for _int8_cache in (False, True):
        _backend = OnnxBackend(_export, _format_of, int8_cache=_int8_cache)
        backends.add(_backend.name, _backend)
