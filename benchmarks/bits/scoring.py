"""Scoring: the loss of every graph in ONNX Runtime on the same windows, and its bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from benchmarks.bits.gguf_files import weight_bytes
from benchmarks.bits.settings import Settings
from lathe.artefact.errors import UserError
from lathe.artefact.gguf_suffix import MODEL_FILE
from lathe.artefact.onnx.graph_format import FOLDER
from lathe.compressor.calibration import token_windows
from lathe.compressor.calibration.tokens import evenly_spaced, window_length
from lathe.compressor.compute.progress import Progress
from lathe.compressor.evaluate import quality
from lathe.compressor.evaluate.llamacpp import LlamaCppModel
from lathe.compressor.evaluate.onnx import OnnxModel
from lathe.compressor.export.onnx.graph import read_summary
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.pipeline.option_values import WINDOW


def evaluation_windows(settings: Settings, source: Checkpoint) -> torch.Tensor:
    """Returns windows [n, T] from all over the evaluation text, as `compress --evaluation` takes them.

    Raises:
        UserError: the text is shorter than two windows, or cannot be read.
    """
    window = window_length(source, WINDOW)
    windows = token_windows(source, settings.evaluation, window, tokens=settings.windows * window)
    chosen = evenly_spaced(windows, settings.windows)
    if len(chosen) < 2:
        raise UserError(
            f"{settings.evaluation} gives {len(chosen)} windows of {window} tokens, not two",
            "Give more text, or more --windows.",
        )
    return chosen


def score(artefact: Path, windows: torch.Tensor, progress: Progress) -> dict[str, Any]:
    """Returns the loss of an artefact as it is served, window by window, and the bytes of its weights."""
    file = artefact / MODEL_FILE
    model = LlamaCppModel(file) if file.is_file() else OnnxModel(artefact)
    with progress.stage(f"score: {artefact.name}", len(windows)) as bar:
        losses = [quality(model, window[None], bar.advance).loss for window in windows]
    return {
        "loss": sum(losses) / len(losses),
        "losses": losses,
        "weight_bytes": weight_bytes(file)
        if file.is_file()
        else int(read_summary(artefact / FOLDER)["weight_bytes"]["after"]),
    }
