"""A dense model with its calibration text, for benchmarks of weights without a search."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.quality.setting import Setting
from lathe.compressor.calibration import load_calibration
from lathe.compressor.calibration.tokens import read_calibration
from lathe.compressor.compute.array_store import ArrayStore
from lathe.compressor.compute.progress import Progress
from lathe.compressor.model.checkpoint import open_checkpoint
from lathe.compressor.model.decoder import LayeredModel
from lathe.compressor.pipeline.option_values import WINDOW


@dataclass(frozen=True)
class Text:
    """Calibration windows [B, T], and which are held out [B]."""

    windows: torch.Tensor
    heldout: torch.Tensor


def open_setting(model: str, text: str, tokens: int, seed: int) -> tuple[Setting, LayeredModel, Text]:
    """Returns the dense model, as a setting and as a model, with its calibration text.

    Raises:
        UserError: one of them cannot be read.
    """
    source, progress = open_checkpoint(model), Progress()
    asked = read_calibration(source, text, tokens=tokens, window=WINDOW, seed=seed)
    read = load_calibration(source, asked, seed=seed, progress=progress)
    layered = LayeredModel.open(source, ArrayStore())
    setting = Setting(
        source,
        layered.runner,
        layered.head,
        layered.embedding,
        layered.layers,
        read.fit,
        read.heldout,
        [],
        seed,
        progress,
    )
    flags = torch.arange(len(read.fit) + len(read.heldout)) >= len(read.fit)
    return setting, layered, Text(torch.cat([read.fit, read.heldout]), flags)
