"""onnxruntime-genai: a graph with a mask beside the ONNX graph, on the same weights, and what it is told."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from lathe.artefact.atomic_files import write_bytes, write_json
from lathe.artefact.errors import UserError
from lathe.artefact.manifest import MANIFEST
from lathe.artefact.onnx.graph_format import FOLDER, GRAPH
from lathe.compressor.export.base import Export, Exporter, exporters, quantizers
from lathe.compressor.export.genai.config import GENAI_CONFIG, GENAI_GRAPH, check_ends, genai_config
from lathe.compressor.export.genai.masked import masked
from lathe.compressor.export.genai.parity import check_masked
from lathe.compressor.export.onnx.graph import DECODERS
from lathe.compressor.export.onnx_quantized import quantize_onnx
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.model.rounding import BITS, GROUPS

NAME = "genai"


def add_genai(directory: Path, source: Checkpoint) -> None:
    """Writes `onnx/genai.onnx` and `genai_config.json` into a directory that has an ONNX graph.

    `onnxruntime_genai.Model(DIRECTORY)` then loads it. The tokenizer is that of the directory.

    Raises:
        UserError: the graph cannot be read, ONNX Runtime computes another model with a mask, or the file
            system refuses.
    """
    try:
        model = onnx.load(directory / GRAPH, load_external_data=False)
    except (OSError, DecodeError) as error:
        raise UserError(f"cannot read {directory / GRAPH}: {error}") from None
    write_bytes(directory / GENAI_GRAPH, masked(model).SerializeToString())
    check_masked(directory / GRAPH, directory / GENAI_GRAPH)
    write_json(directory / GENAI_CONFIG, genai_config(source))


def check_model(source: Checkpoint, graph: str) -> None:
    """Checks from its config that onnxruntime-genai can run what the exporter `graph` writes of a model.

    Raises:
        UserError: as that exporter's check, and `check_ends`.
    """
    exporters.get(graph).check(source)
    check_ends(source)


def _has_graph(artefact: Path) -> bool:
    """Returns whether an artefact has an ONNX graph: one of Lathe's, which not every `onnx/model.onnx` is."""
    return (artefact / MANIFEST).is_file() and (artefact / GRAPH).is_file()


def _write(directory: Path, job: Export, graph: str) -> None:
    """Adds to the graph that there is, or to one that the exporter `graph` writes."""
    if not (directory / GRAPH).is_file():
        exporters.get(graph).write(directory, job)
    add_genai(directory, job.source)


def _register(scheme: str) -> None:
    name, graph = "-".join(filter(None, (NAME, scheme))), "-".join(filter(None, (FOLDER, scheme)))
    exporters.add(
        name,
        Exporter(
            write=partial(_write, graph=graph),
            types=DECODERS,
            variant_of=NAME if scheme else "",
            stored=lambda source: exporters.get(graph).stored(source),
            check=partial(check_model, graph=graph),
            multiple=GROUPS[-1] if scheme else 1,
            quantizes=bool(scheme),
            summary=lambda directory: exporters.get(graph).summary(directory),
            adds_to=_has_graph,
            add=add_genai,
        ),
    )


for _scheme in ("", "mixed", *(f"int{bits}" for bits in BITS)):
    _register(_scheme)
for _bits in BITS:
    quantizers.add(f"{NAME}-int{_bits}", partial(quantize_onnx, name=f"{NAME}-int{_bits}"))
