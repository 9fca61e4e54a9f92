"""ONNX graphs with matrices in 8 or 4 bits, from an artefact, a dense model, or a search."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lathe.artefact.errors import UserError
from lathe.artefact.onnx.graph_format import FOLDER
from lathe.artefact.plan import Plan
from lathe.compressor.export.artefact import open_model, rewrite
from lathe.compressor.export.base import (
    Export,
    Exporter,
    Stored,
    check_known,
    exporters,
    quantizers,
    refuse_plan,
)
from lathe.compressor.export.onnx import check_source, export_onnx
from lathe.compressor.export.onnx.blockwise import WHOLE_BITS, Blockwise
from lathe.compressor.export.onnx.graph import DECODERS, read_summary
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.model.groups import BY_ERROR, GroupRule
from lathe.compressor.model.rounding import BITS, GROUPS


def check_quantized_graph(source: Checkpoint, name: str) -> None:
    """Checks from its config that a model has a quantized graph, as the exporter `name` writes it.

    Raises:
        UserError: as `check_source`, or the hidden size is not in groups.
    """
    check_known(source, name)
    check_source(source, quantized=True)
    if source.shape.hidden_size % GROUPS[-1]:
        raise UserError(
            f"a hidden size of {source.shape.hidden_size} cannot be quantized for ONNX",
            f"It takes multiples of {GROUPS[-1]}.",
        )


def stored_quantized(source: Checkpoint, bits: int, head_bits: int = WHOLE_BITS) -> Stored:
    """Returns the bytes of values with a scale for every smallest group.

    Those of tied embeddings count once for each use; positions, keys and values stay float32.
    """
    scale, uses = 4 / GROUPS[-1], 2 if source.shape.tied_embeddings else 1
    return Stored(bits / 8 + scale, uses * head_bits / 8 + scale, 4, 4)


def _write(directory: Path, job: Export, bits: int) -> None:
    export_onnx(directory, job, partial(Blockwise, bits=bits, quantize=job.groups.quantize))


def quantize_onnx(
    model: str,
    output: Path,
    _devices: int = 1,
    plan: Path | None = None,
    groups: GroupRule = BY_ERROR,
    *,
    name: str,
) -> dict[str, Any]:
    """Writes a quantized artefact or dense model into a new directory; returns its summary.

    It holds all that serving needs, without the checkpoint's weights.

    Raises:
        UserError: the model is quantized already or cannot be read or exported, the output exists, or a plan
            says bits that all blocks have anyway.
    """
    refuse_plan(plan, name.rpartition("-")[2])
    job = replace(open_model(model), groups=groups)
    return rewrite(job, output, name)


for _bits in BITS:
    _name = f"onnx-int{_bits}"
    exporters.add(
        _name,
        Exporter(
            write=partial(_write, bits=_bits),
            types=DECODERS,
            stored=partial(stored_quantized, bits=_bits),
            check=partial(check_quantized_graph, name=_name),
            multiple=GROUPS[-1],
            folder=FOLDER,
            graph="onnx",
            summary=lambda directory: read_summary(directory / FOLDER),
            quantizes=True,
            with_bits=partial(Plan.in_bits, bits=_bits, head_bits=WHOLE_BITS),
            served_by="lathe serve {out}",
        ),
    )
    quantizers.add(_name, partial(quantize_onnx, name=_name))
