"""The tensors of a quantized checkpoint for vLLM, made one matrix at a time."""

from __future__ import annotations

from statistics import median
from typing import Any

import torch

from lathe.compressor.export.base import Export
from lathe.compressor.export.compressed_tensors import Scheme
from lathe.compressor.export.layout import pruned_tensors
from lathe.compressor.model.names import EMBEDDING, LM_HEAD, POSITIONS, in_layer, of_attention
from lathe.compressor.model.rounding import QuantizedMatrix
from lathe.compressor.model.safetensors_writer import Entry

_WHOLE = tuple(f"{module}.weight" for module in (EMBEDDING, POSITIONS, LM_HEAD))


class QuantizedTensors:
    """Gives tensors as they are stored, by name.

    A matrix is quantized when the first of its tensors is asked for, to nearest where the job has no codes of
    it. Everything else stays as it is.

    Args:
        job: The model.
        scheme: The scheme of all matrices of layers, or that of each number of bits in the plan.

    Attributes:
        entries: What is stored, by name.
        schemes: The scheme of every matrix but embeddings and head, by name; None: it stays as it is.
    """

    def __init__(self, job: Export, scheme: Scheme | dict[int, Scheme]) -> None:
        self._job, self._scheme = job, scheme
        self._matrices: dict[str, str] = {}
        self._at, self._parts = "", dict[str, torch.Tensor]()
        self._errors: dict[str, list[float]] = {}
        self._bytes_before = 0
        self.entries: dict[str, Entry] = {}
        self.schemes: dict[str, Scheme | None] = {}
        for name, dims in pruned_tensors(job.source.shape, job.plan):
            plain = Entry(dims, job.source.dtype)
            self._bytes_before += plain.bytes
            own = None
            if len(dims) == 2 and name not in _WHOLE:
                own = self.schemes[name] = self._scheme_of(name)
            parts = own.entries(name, dims, job.source.dtype) if own else {name: plain}
            self.entries |= parts
            self._matrices |= dict.fromkeys(parts, name) if own else {}

    def _scheme_of(self, name: str) -> Scheme | None:
        if isinstance(self._scheme, Scheme):
            return self._scheme
        index, module = in_layer(name)
        return self._scheme.get(self._job.plan[index].bits("attention" if of_attention(module) else "ffn"))

    def __call__(self, name: str) -> torch.Tensor:
        matrix = self._matrices.get(name)
        if matrix is None:
            changed = self._job.rounded(name)
            if isinstance(changed, torch.Tensor):
                return changed.to(self._job.source.dtype)
            return self._job.stored(name)
        if matrix != self._at:
            self._at, self._parts = matrix, self._quantized(matrix)
        return self._parts.pop(name)

    def _quantized(self, matrix: str) -> dict[str, torch.Tensor]:
        scheme, found = self.schemes[matrix], self._job.rounded(matrix)
        assert scheme is not None
        if not isinstance(found, QuantizedMatrix):
            found = scheme.round(self._job.tensor(matrix))
        self._errors.setdefault(scheme.name, []).append(found.error)
        return scheme.store(matrix, found, self._job.source.dtype)

    def summary(self) -> dict[str, Any]:
        """Returns bytes and relative errors of the matrices, once all were asked for."""
        after = sum(entry.bytes for entry in self.entries.values())
        errors = [error for found in self._errors.values() for error in found]
        return self._format() | {
            "weight_bytes": {"before": self._bytes_before, "after": after},
            "relative_error": _spread(errors),
        }

    def _format(self) -> dict[str, Any]:
        if isinstance(self._scheme, Scheme):
            return {"scheme": self._scheme.name, "group": self._scheme.group}
        floats = sum(scheme is None for scheme in self.schemes.values())
        formats: dict[str, Any] = {"float": {"matrices": floats}} if floats else {}
        for name, errors in sorted(self._errors.items()):
            formats[name] = {"matrices": len(errors), "relative_error": _spread(errors)}
        return {"scheme": "mixed", "formats": formats}


def _spread(errors: list[float]) -> dict[str, float]:
    return {"median": median(errors or [0]), "max": max(errors, default=0)}
