"""Losses of all artefacts on the same tokens: the trees' own reports may be of different windows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lathe.compressor.calibration.tokens import evenly_spaced, token_windows, window_length
from lathe.compressor.evaluate import quality
from lathe.compressor.evaluate.compare import load_model
from lathe.compressor.model.checkpoint import open_checkpoint
from lathe.compressor.pipeline.option_values import WINDOW

_WINDOWS = 64


def same_losses(dense: Path, artefacts: Mapping[str, Path], text: Path) -> dict[str, dict[str, Any]]:
    """Returns the losses of each artefact and of the dense model, scored by this tree, by side.

    Args:
        dense: The dense model.
        artefacts: The artefact of each side.
        text: At most 64 windows spread over it are scored.
    """
    source = open_checkpoint(str(dense))
    windows = evenly_spaced(token_windows(source, str(text), window_length(source, WINDOW)), _WINDOWS)
    models = {"dense": dense, **artefacts}
    losses = {name: quality(load_model(str(path)), windows).loss for name, path in models.items()}
    return {
        side: {
            "loss": {"dense": losses["dense"], "subnet": losses[side], "unit": "nats per token"},
            "loss_increase": losses[side] - losses["dense"],
            "evaluated_tokens": windows[:, 1:].numel(),
        }
        for side in artefacts
    }
