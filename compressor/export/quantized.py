"""Checkpoints for vLLM with quantized decoder matrices, from an artefact or a dense model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from lathe.artefact.atomic_files import staged_directory, write_json
from lathe.artefact.errors import UserError
from lathe.artefact.manifest import write_manifest
from lathe.artefact.plan import Plan
from lathe.artefact.shipped_files import PLUGIN
from lathe.compressor.export.artefact import copy_report, open_model
from lathe.compressor.export.base import Export, destinations, quantizers, rules_of
from lathe.compressor.export.checkpoint import uneven_config, write_model
from lathe.compressor.export.compressed_tensors import SCHEMES, Scheme
from lathe.compressor.export.layout import pruned_tensors
from lathe.compressor.export.vllm import write_plugin
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.model.names import EMBEDDING, LM_HEAD, POSITIONS
from lathe.compressor.model.safetensors_writer import Entry


def export_quantized(model: str, output: Path, tensor_parallel: int = 1, *, scheme: str) -> dict[str, Any]:
    """Writes a quantized artefact or dense model for vLLM into a new directory; returns its summary.

    One tensor is in memory at a time.

    Raises:
        UserError: the model is quantized already or cannot be read, vLLM cannot serve its widths like this,
            or the output exists.
    """
    job = open_model(model)
    check_quantized(job.source, job.plan, scheme, tensor_parallel)
    if output.exists():
        raise UserError(f"{output} exists", "Choose another --output.")
    tensors = _Quantized(job, SCHEMES[scheme])
    config = uneven_config(job.source, job.plan) | {"quantization_config": SCHEMES[scheme].config()}
    with staged_directory(output) as temporary:
        write_model(temporary, job.source, config, tensors.entries, tensors)
        write_plugin(temporary / PLUGIN)
        write_json(temporary / "plan.json", job.plan.to_json())
        copy_report(job, temporary, tensors.summary())
        write_manifest(temporary)
    return tensors.summary()


def check_quantized(source: Checkpoint, plan: Plan, scheme: str, tensor_parallel: int = 1) -> None:
    """Checks that vLLM has kernels for a quantized plan, by the rules of `--for vllm-w4a16`.

    vLLM's CPU build also needs outputs in multiples of 32; they are, for every head size that it serves.

    Raises:
        UserError: it has none; names the layer, its widths and what would do.
    """
    destination = destinations.get(f"vllm-{scheme}")
    destination.check(source)
    rules_of([destination], source.shape.head_dim, tensor_parallel).check(plan)


class _Quantized:
    """Gives tensors as they are stored, by name.

    A matrix is quantized when the first of its tensors is asked for. Everything else stays as it is.
    """

    def __init__(self, job: Export, scheme: Scheme) -> None:
        self._job, self._scheme = job, scheme
        self._matrices: dict[str, str] = {}
        self._at, self._parts = "", dict[str, torch.Tensor]()
        self._errors: list[float] = []
        self._bytes_before = 0
        self.entries: dict[str, Entry] = {}
        source = job.source
        whole = [f"{module}.weight" for module in (EMBEDDING, POSITIONS, LM_HEAD)]
        for name, dims in pruned_tensors(source.shape, job.plan):
            plain = Entry(dims, source.dtype)
            self._bytes_before += plain.bytes
            rounded = len(dims) == 2 and name not in whole
            parts = scheme.entries(name, dims, source.dtype) if rounded else {name: plain}
            self.entries |= parts
            self._matrices |= dict.fromkeys(parts, name) if rounded else {}

    def __call__(self, name: str) -> torch.Tensor:
        if name not in self._matrices:
            return self._job.stored(name)
        matrix = self._matrices[name]
        if matrix != self._at:
            weight = self._job.tensor(matrix)
            self._parts, error = self._scheme.store(matrix, weight, self._job.source.dtype)
            self._at = matrix
            self._errors.append(error)
        return self._parts.pop(name)

    def summary(self) -> dict[str, Any]:
        """Returns bytes and relative errors of the matrices, once all were asked for."""
        after = sum(entry.bytes for entry in self.entries.values())
        return {
            "scheme": self._scheme.name,
            "group": self._scheme.group,
            "weight_bytes": {"before": self._bytes_before, "after": after},
            "relative_error": {"median": median(self._errors or [0]), "max": max(self._errors, default=0)},
        }


for _scheme in SCHEMES:
    quantizers.add(f"vllm-{_scheme}", partial(export_quantized, scheme=_scheme))
