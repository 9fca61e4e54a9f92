"""Hidden states moved on through single layers."""

from __future__ import annotations

import torch

from benchmarks.quality.setting import Setting
from lathe.compressor.model.block_runner import Weights

ROWS = 4


@torch.inference_mode()
def step(setting: Setting, index: int, weights: Weights, hidden_BTD: torch.Tensor) -> torch.Tensor:
    """[B, T, D] after one layer, of any widths; a dropped layer changes nothing."""
    return torch.cat([setting.layer(index, weights, x) for x in hidden_BTD.split(ROWS)])
