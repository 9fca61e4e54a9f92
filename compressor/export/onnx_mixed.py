"""ONNX graphs in which a plan says the bits of every block's weights, and of embedding and head."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from lathe.artefact.errors import UserError
from lathe.artefact.onnx.graph_format import FOLDER
from lathe.compressor.export.base import Export, Exporter, Stored, exporters
from lathe.compressor.export.onnx import export_onnx
from lathe.compressor.export.onnx.decoder_moe import MoeDecoder
from lathe.compressor.export.onnx.graph import DECODERS, read_summary
from lathe.compressor.export.onnx.mixed import Mixed
from lathe.compressor.export.onnx_quantized import check_quantized_graph, stored_quantized
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.model.rounding import GROUPS

NAME = "onnx-mixed"


def check_mixed_graph(source: Checkpoint) -> None:
    """Checks from its config that a model has a graph of mixed formats.

    Raises:
        UserError: as `check_quantized_graph`, or its FFNs are experts.
    """
    if source.shape.experts:
        raise UserError(
            f"{source.name} has experts, which {NAME} does not take",
            "--quantize int8 or --quantize int4 takes the whole model.",
        )
    check_quantized_graph(source, NAME)


def _write(directory: Path, job: Export) -> None:
    export_onnx(directory, job, partial(Mixed, plan=job.plan, quantize=job.groups.quantize))


exporters.add(
    NAME,
    Exporter(
        write=_write,
        types=[name for name, decoder in DECODERS.items() if not issubclass(decoder, MoeDecoder)],
        stored=lambda _source: Stored(4, 4, 4, 4),
        rounded=lambda source, bits: stored_quantized(source, bits, head_bits=bits),
        check=check_mixed_graph,
        multiple=GROUPS[-1],
        folder=FOLDER,
        graph="onnx",
        summary=lambda directory: read_summary(directory / FOLDER),
        quantizes=True,
        with_bits=lambda plan: plan,
        served_by="lathe serve {out}",
    ),
)
