"""One ONNX graph for prefill and decode, hand-built from a few fused operators."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from lathe.artefact.onnx.graph_format import FOLDER
from lathe.artefact.onnx.minimum_version import check_version
from lathe.compressor.export.base import Export, Exporter, Stored, check_known, exporters
from lathe.compressor.export.onnx.graph import (
    DECODERS,
    Rounded,
    build_onnx,
    check_config,
    oldest_runtime,
    read_summary,
)
from lathe.compressor.export.onnx.matrices import Matrices, Plain
from lathe.compressor.export.onnx.writer import GraphWriter, Storage
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.model.rounding import QuantizedMatrix

__all__ = ["build_onnx", "export_onnx"]


def export_onnx(directory: Path, job: Export, matrices: Callable[[GraphWriter], Matrices] = Plain) -> None:
    """Writes `onnx/model.onnx` and its data.

    Arithmetic is float32 on the values that the checkpoint stores, or on what `matrices` make of them, or
    the job's rounding did. The KV cache is int8 where the job has scales for it.

    Raises:
        UserError: as `build_onnx`.
    """
    folder = directory / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    source = job.source

    def tensor(name: str) -> torch.Tensor:
        found = job.rounded(name)
        return found if isinstance(found, torch.Tensor) else job.stored(name).float()

    def quantized(name: str) -> QuantizedMatrix | None:
        found = job.rounded(name)
        return found if isinstance(found, QuantizedMatrix) else None

    build_onnx(
        folder,
        source.config,
        source.family,
        job.plan,
        tensor,
        matrices,
        rounded=Rounded(quantized, job.cache_scales),
        storage=Storage(nested=job.nested),
    )


def check_source(source: Checkpoint, quantized: bool = False) -> None:
    """Checks that the installed ONNX Runtime can run a model's graph, from its config alone.

    `quantized` says whether the weights are quantized.

    Raises:
        UserError: it cannot; names the setting.
    """
    check_known(source, "onnx")
    check_config(source.config, source.shape, source.family)
    needed = oldest_runtime(source.config, source.shape.experts > 0, quantized)
    check_version(needed, f"the ONNX graph of {source.name}")


exporters.add(
    "onnx",
    Exporter(
        write=export_onnx,
        types=DECODERS,
        stored=lambda _source: Stored(4, 4, 4, 4),
        check=check_source,
        folder=FOLDER,
        graph="onnx",
        summary=lambda directory: read_summary(directory / FOLDER),
        served_by="lathe serve {out}",
    ),
)
