"""GGUF files with all matrices in one type: of llama.cpp's own, or in 8 or 4 bits as Lathe rounds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lathe.artefact.plan import Plan
from lathe.compressor.export.artefact import open_model, rewrite
from lathe.compressor.export.base import Export, Exporter, Stored, exporters, quantizers, refuse_plan
from lathe.compressor.export.gguf import FAMILIES, GGUF, check_dense, check_uneven, export_gguf
from lathe.compressor.export.gguf.coded_types import KINDS, CodedTypes
from lathe.compressor.export.gguf.quantized_types import (
    BY_LLAMA_CPP,
    BY_PACKAGE,
    QuantizedTypes,
    check_quantizes,
    fitting,
    table_kind,
)
from lathe.compressor.export.gguf.tensors import BLOCK
from lathe.compressor.export.gguf.types import FLOATS, FloatTypes, Types, bytes_of
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.model.groups import BY_ERROR, GroupRule

HEAD_BITS = 8
"""Bits of embedding and head where Lathe rounds."""


def quantize_gguf(
    model: str,
    output: Path,
    _devices: int = 1,
    plan: Path | None = None,
    _groups: GroupRule = BY_ERROR,
    *,
    name: str,
) -> dict[str, Any]:
    """Writes an artefact or dense model in a type into a new directory; returns its summary.

    Raises:
        UserError: the model is quantized already or cannot be read or exported, what quantizes is missing,
            the output exists, or a plan says bits that all blocks have anyway.
    """
    refuse_plan(plan, name.removeprefix(f"{GGUF}-"))
    return rewrite(open_model(model), output, name)


def stored_types(source: Checkpoint, kind: str, table: str) -> Stored:
    """Returns the bytes of values of a type in rows as wide as the model; the KV cache is float16."""
    width = source.shape.hidden_size
    return Stored(bytes_of(fitting(kind, width)), bytes_of(fitting(table, width)), 4, 2)


def _add(scheme: str, types: Callable[[Export], Types], kind: str, table: str, **settings: Any) -> None:
    name, moved = f"{GGUF}-{scheme}", None if kind in FLOATS else scheme

    def check(source: Checkpoint) -> None:
        check_dense(source, name)
        check_quantizes(kind)

    exporters.add(
        name,
        Exporter(
            write=lambda directory, job: export_gguf(directory, job, types(job), moved),
            stored=partial(stored_types, kind=kind, table=table),
            check=check,
            check_uneven=check_uneven,
            variant_of=GGUF,
            **{**FAMILIES, **settings},
        ),
    )
    quantizers.add(name, partial(quantize_gguf, name=name))


def _always(types: Types) -> Callable[[Export], Types]:
    return lambda _job: types


def _coded(in_bits: Callable[[Plan], Plan]) -> Callable[[Export], Types]:
    return lambda job: CodedTypes(in_bits(job.plan), "F16")


for _kind in FLOATS:
    _add(_kind.lower(), _always(FloatTypes(_kind)), _kind, _kind)
_rounds: dict[str, Any] = {"quantizes": True, "multiple": BLOCK}
for _kind in (*BY_PACKAGE, *BY_LLAMA_CPP):
    _add(_kind.lower(), _always(QuantizedTypes(_kind)), _kind, table_kind(_kind), **_rounds)
for _bits, _kind in KINDS.items():
    _in_bits = partial(Plan.in_bits, bits=_bits, head_bits=HEAD_BITS)
    _add(f"int{_bits}", _coded(_in_bits), _kind, KINDS[HEAD_BITS], with_bits=_in_bits, **_rounds)
