"""llama.cpp on the CPU, through the runner that serves."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lathe.artefact.gguf.file import open_gguf
from lathe.artefact.gguf_suffix import MODEL_FILE
from lathe.artefact.plan import Plan
from lathe.compressor.export.gguf import GGUF, float_types
from lathe.compressor.export.gguf.coded_types import KINDS, CodedTypes
from lathe.compressor.export.gguf.quantized_types import BY_LLAMA_CPP, BY_PACKAGE, QuantizedTypes
from lathe.compressor.export.gguf.random import random_gguf
from lathe.compressor.export.gguf.types import FLOATS, FloatTypes, Types
from lathe.compressor.export.gguf_quantized import HEAD_BITS
from lathe.compressor.latency.backend import backends
from lathe.compressor.latency.workload import Workload
from lathe.compressor.model.checkpoint import Checkpoint

if TYPE_CHECKING:
    from lathe.artefact.llamacpp.runner import LlamaCppRunner

_KEPT = 8
"""Filled caches, of different sizes."""
TypesOf = Callable[[Checkpoint, Plan], Types]
"""Returns the types of the tensors of a plan's file."""


class LlamaCppBackend:
    """Runs GGUF files as they are served: without flash attention, keys and values in float16.

    Decode steps keep the cache at the workload's context: the token that one adds is taken away again.
    """

    def __init__(self, name: str, export: str, types_of: TypesOf) -> None:
        self.name, self.export, self._types_of = name, export, types_of
        self._filled: OrderedDict[Hashable, np.ndarray] = OrderedDict()

    def build(self, directory: Path, source: Checkpoint, plan: Plan, layers: int) -> None:
        config = {**source.config, "num_hidden_layers": layers}
        random_gguf(directory / MODEL_FILE, config, source.family, plan, self._types_of(source, plan))

    def prepare(self, directory: Path, workload: Workload, threads: int | None) -> Callable[[], None]:
        from lathe.artefact.llamacpp.runner import LlamaCppRunner

        runner = LlamaCppRunner(
            directory / MODEL_FILE,
            max_batch=1 if workload.metric == "ttft" else workload.batch_size,
            max_length=workload.context + 1,
            threads=threads,
        )
        prompt = np.arange(workload.context) % runner.vocab_size

        def prefill() -> None:
            runner.reset(0)
            runner.prefill(0, prompt).argmax(-1)

        if workload.metric == "ttft":
            return prefill
        self._fill(runner, directory / MODEL_FILE, prefill)
        for slot in range(1, workload.batch_size):
            runner.copy(0, slot)
        tokens = np.zeros(workload.batch_size, dtype=np.int64)

        def decode() -> None:
            runner.decode(tokens).argmax(-1)
            for slot in range(workload.batch_size):
                runner.cut(slot, workload.context)

        return decode

    def _fill(self, runner: LlamaCppRunner, file: Path, prefill: Callable[[], None]) -> None:
        """Brings slot 0 to the context: by a prompt, or as an earlier model with such caches left it.

        What is in a cache does not change the time of a step, and a prompt takes long.
        """
        key = _caches_of(file), runner.max_length
        if key in self._filled:
            self._filled.move_to_end(key)
            runner.restore(0, self._filled[key], runner.max_length - 1)
            return
        prefill()
        self._filled[key] = runner.saved(0)
        if len(self._filled) > _KEPT:
            self._filled.popitem(last=False)

    def versions(self) -> dict[str, str]:
        from lathe.artefact.llamacpp.library import llama_cpp

        api = llama_cpp()
        return {
            "llama-cpp-python": api.__version__,
            "llama.cpp": " ".join(api.llama_print_system_info().decode().split()),
        }


def _caches_of(file: Path) -> Hashable:
    """Returns what tells the sizes of a model's caches."""
    model = open_gguf(file)
    keys = ("block_count", "attention.head_count", "attention.head_count_kv", "attention.key_length")
    return str([model.metadata.get(f"{model.architecture}.{key}") for key in keys])


def _always(types: Types) -> TypesOf:
    return lambda _source, _plan: types


def _in_bits(bits: int) -> TypesOf:
    return lambda _source, plan: CodedTypes(plan.in_bits(bits, HEAD_BITS), "F16")


_TYPES: dict[str, TypesOf] = {
    **{kind.lower(): _always(FloatTypes(kind)) for kind in FLOATS},
    **{kind.lower(): _always(QuantizedTypes(kind)) for kind in (*BY_PACKAGE, *BY_LLAMA_CPP)},
    **{f"int{bits}": _in_bits(bits) for bits in KINDS},
    "mixed": lambda source, plan: CodedTypes(plan, float_types(source).kind),
}
"""By what `--quantize` calls them."""

backends.add("llamacpp", LlamaCppBackend("llamacpp", GGUF, lambda source, _plan: float_types(source)))
for _scheme, _types in _TYPES.items():
    _name = f"llamacpp-{_scheme}"
    backends.add(_name, LlamaCppBackend(_name, f"{GGUF}-{_scheme}", _types))
