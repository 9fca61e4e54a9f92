"""GGUF files in which a plan says the bits of every block's weights, and of embedding and head."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from lathe.compressor.export.artefact import rewrite
from lathe.compressor.export.base import Export, Exporter, Stored, exporters, quantizers
from lathe.compressor.export.gguf import (
    FAMILIES,
    GGUF,
    check_dense,
    check_uneven,
    export_gguf,
    float_types,
    stored_as,
)
from lathe.compressor.export.gguf.coded_types import KINDS, CodedTypes
from lathe.compressor.export.gguf.summary import MIXED
from lathe.compressor.export.gguf.tensors import BLOCK
from lathe.compressor.export.gguf_quantized import stored_types
from lathe.compressor.export.planned_bits import check_rounds, planned_job
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.model.groups import BY_ERROR, GroupRule

NAME = f"{GGUF}-{MIXED}"


def quantize_mixed(
    model: str, output: Path, _devices: int = 1, plan: Path | None = None, _groups: GroupRule = BY_ERROR
) -> dict[str, Any]:
    """Writes an artefact or a dense model with the bits of each block from a plan; returns the summary.

    Matrices are rounded to nearest.

    Args:
        model: The artefact, or a dense model (path or hub name).
        output: The directory, which must not exist.
        plan: A file with the bits; by default an artefact's own plan says them.

    Raises:
        UserError: the model cannot be read or exported or is quantized already, the plan is another
            model's or rounds nothing, or the output exists.
    """
    job = planned_job(model, plan)
    check_rounds(job.plan)
    return rewrite(job, output, NAME)


def _write(directory: Path, job: Export) -> None:
    export_gguf(directory, job, CodedTypes(job.plan, float_types(job.source).kind), MIXED)


def _rounded(source: Checkpoint, bits: int) -> Stored:
    return stored_types(source, KINDS[bits], KINDS[bits])


exporters.add(
    NAME,
    Exporter(
        write=_write,
        stored=lambda source: stored_as(float_types(source).kind),
        rounded=_rounded,
        check=partial(check_dense, name=NAME),
        check_uneven=check_uneven,
        multiple=BLOCK,
        quantizes=True,
        with_bits=lambda plan: plan,
        variant_of=GGUF,
        **FAMILIES,
    ),
)
quantizers.add(NAME, quantize_mixed)
