"""GGUF files, which llama.cpp runs, and what is built on it: Ollama, LM Studio, koboldcpp.

Uneven layers need no change of llama.cpp: released architectures read widths by layer (`hosts`).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lathe.artefact.errors import UserError
from lathe.artefact.gguf.installed import check_installed
from lathe.artefact.gguf_suffix import MODEL_FILE
from lathe.artefact.tokenizer import has_tokenizer
from lathe.compressor.export.base import Export, Exporter, Stored, check_known, exporters
from lathe.compressor.export.gguf.build import WRITING, Origin, build_gguf
from lathe.compressor.export.gguf.hosts import host_of
from lathe.compressor.export.gguf.parity import check_parity
from lathe.compressor.export.gguf.subnet import Subnet
from lathe.compressor.export.gguf.summary import read_summary, summary_of, write_summary
from lathe.compressor.export.gguf.types import FLOATS, FloatTypes, Types, Value, bytes_of
from lathe.compressor.export.layout import pruned_tensors
from lathe.compressor.model.checkpoint import Checkpoint

__all__ = ["FloatTypes", "Origin", "build_gguf", "export_gguf"]

GGUF = "gguf"
FAMILIES: dict[str, Any] = {
    "types": ("lathe_llama", "lathe_gemma"),
    "unknown": ("olmo3",),
    "takes_artefacts": True,
    "graph": GGUF,
    "summary": read_summary,
    "served_by": "lathe serve {out}   (or llama-server --model {out}/" + MODEL_FILE + ")",
}
"""What all exporters of such files have in common."""
_OF_DTYPE = {dtype: kind for kind, dtype in FLOATS.items()}


def export_gguf(directory: Path, job: Export, types: Types, scheme: str | None = None) -> None:
    """Writes `model.gguf` with what the job's rounding made of matrices, else the values that are stored.

    Beside it is a summary. Where llama.cpp is installed, its logits are compared with ours.

    Args:
        directory: Where it is written.
        job: The model.
        types: The types of the tensors.
        scheme: What they are called; None: nothing is quantized.

    Raises:
        UserError: as `build_gguf` and `check_parity`.
    """
    source = job.source

    def read(name: str) -> Value:
        found = job.rounded(name)
        return job.stored(name).float() if found is None else found

    origin = Origin(source.name, source.path if has_tokenizer(source.path) else None)
    path = directory / MODEL_FILE
    written = build_gguf(path, source.config, source.family, job.plan, read, types, origin)
    write_summary(directory, summary_of(scheme, source_bytes(job), written, check_parity(path, job)))


def source_bytes(job: Export) -> int:
    """Returns the bytes of a job's weights as the checkpoint has them."""
    count = sum(torch.Size(dims).numel() for _, dims in pruned_tensors(job.source.shape, job.plan))
    return count * job.source.dtype.itemsize


def check_dense(source: Checkpoint, name: str) -> None:
    """Checks from its config that llama.cpp has an architecture for a model as it is.

    Raises:
        UserError: It has none, or the package that writes files is not installed.
    """
    check_known(source, name)
    check_installed(WRITING)
    host_of(Subnet(source.config, source.shape, source.shape.dense_plan), source.family.model_type)


def check_uneven(source: Checkpoint) -> None:
    """Checks from its config that llama.cpp has an architecture for a model with uneven layers.

    Raises:
        UserError: It has none; says what upstream lacks.
    """
    plan = source.shape.dense_plan
    uneven = plan.replace(0, replace(plan[0], query_heads=0, kv_heads=0))
    host_of(Subnet(source.config, source.shape, uneven), source.family.model_type)


def float_types(source: Checkpoint) -> FloatTypes:
    """Returns the type that a checkpoint stores its values in.

    Raises:
        UserError: It is none that llama.cpp has.
    """
    if source.dtype not in _OF_DTYPE:
        raise UserError(f"GGUF has no type for {source.dtype} weights", "Export with --quantize f32.")
    return FloatTypes(_OF_DTYPE[source.dtype])


def stored_as(kind: str) -> Stored:
    """Returns the bytes of values in a float type; vectors are float32, the KV cache is float16."""
    size = bytes_of(kind)
    return Stored(size, size, 4, torch.float16.itemsize)


def _write(directory: Path, job: Export) -> None:
    export_gguf(directory, job, float_types(job.source))


exporters.add(
    GGUF,
    Exporter(
        write=_write,
        stored=lambda source: stored_as(float_types(source).kind),
        check=partial(check_dense, name=GGUF),
        check_uneven=check_uneven,
        **FAMILIES,
    ),
)
