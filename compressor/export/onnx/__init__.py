"""One ONNX graph for prefill and decode, hand-built from a few fused operators."""

from __future__ import annotations

from pathlib import Path

from compressor.export.base import Export, Exporter, exporters
from compressor.export.onnx.graph import build_onnx, check_config

__all__ = ["build_onnx", "export_onnx"]

FOLDER = "onnx"


def export_onnx(directory: Path, job: Export) -> None:
    """Write `onnx/model.onnx` and its data: float32 arithmetic on the values that the checkpoint stores.

    Raises:
        UserError: as `build_onnx`.
    """
    folder = directory / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    source = job.source
    build_onnx(folder, source.config, source.family, job.plan, lambda name: job.stored(name).float())


exporters.add(
    "onnx",
    Exporter(
        write=export_onnx,
        check=lambda source: check_config(source.config, source.shape),
        folder=FOLDER,
        served_by="lathe serve {out}",
    ),
)
