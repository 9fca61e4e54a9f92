"""Calibration text for exports, and the rounding of all layers on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from lathe.artefact.modeling import register
from lathe.compressor.calibration.tokens import load_calibration, read_calibration
from lathe.compressor.compute.progress import Progress
from lathe.compressor.export.base import CalibrationAsked
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.model.names import layer_prefix
from lathe.compressor.model.rounded_tensors import Rounded
from lathe.compressor.reconstruction.rounding_pass import RoundingPass

_WINDOW = 512


@dataclass(frozen=True)
class TextRead:
    """Tokens of calibration text.

    Attributes:
        windows: [n, T] tokens.
        heldout: [n] bool, the windows that nothing is fitted on.
        facts: What was read, for `report.json`.
    """

    windows: torch.Tensor
    heldout: torch.Tensor
    facts: dict[str, Any]


def read_text(source: Checkpoint, asked: CalibrationAsked, progress: Progress) -> TextRead:
    """Reads calibration text, or has the model write it.

    Raises:
        UserError: it cannot be read, or is too little.
    """
    register()
    text = read_calibration(source, asked.text, tokens=asked.tokens, window=_WINDOW, seed=0)
    text.amount.check(asked.text)
    read = load_calibration(source, text, seed=0, progress=progress)
    heldout = torch.arange(len(read.fit) + len(read.heldout)) >= len(read.fit)
    return TextRead(torch.cat([read.fit, read.heldout]), heldout, text.to_json())


def round_all(rounding: RoundingPass, progress: Progress) -> Rounded:
    """Returns the rounded tensors of all layers by the checkpoint's names; they are held in memory."""
    made: list[Rounded] = []
    with progress.stage("round: layers", len(rounding.plan)) as bar, torch.inference_mode():
        for index in range(len(rounding.plan)):
            made.append(rounding.layer(index, made.__getitem__))
            bar.advance()
    return {layer_prefix(i) + name: value for i, layer in enumerate(made) for name, value in layer.items()}
