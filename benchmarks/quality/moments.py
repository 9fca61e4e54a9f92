"""Means and variances of what o_proj and down_proj read."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.quality.layer_step import ROWS
from benchmarks.quality.setting import Setting
from lathe.compressor.model.names import DOWN_PROJ, O_PROJ


class Moments:
    """First and second moments of features [..., n] over all tokens added, in float64."""

    def __init__(self, features: int) -> None:
        self.count = 0
        self._sum = torch.zeros(features, dtype=torch.float64)
        self._squares = torch.zeros(features, dtype=torch.float64)

    def add(self, x: torch.Tensor) -> None:
        flat = x.reshape(-1, x.shape[-1]).double()
        self.count += len(flat)
        self._sum += flat.sum(0)
        self._squares += flat.square().sum(0)

    @property
    def mean(self) -> torch.Tensor:
        """The mean over tokens, [n]."""
        return self._sum / self.count

    @property
    def norm(self) -> torch.Tensor:
        """[n]: the L2 norm over tokens."""
        return self._squares.sqrt()

    @property
    def variance(self) -> torch.Tensor:
        """[n]: the unbiased sample variance."""
        return ((self._squares - self.count * self.mean.square()) / (self.count - 1)).clamp_min(0)


@dataclass(frozen=True)
class LayerMoments:
    """attention: of o_proj's inputs. ffn: of down_proj's."""

    attention: Moments
    ffn: Moments


@torch.inference_mode()
def layer_moments(
    setting: Setting, index: int, hidden_BTD: torch.Tensor
) -> tuple[LayerMoments, torch.Tensor]:
    """Moments in one dense layer, and the hidden states [B, T, D] after it."""
    weights, runner = setting.layers[index], setting.runner.at(index)
    found = LayerMoments(
        Moments(weights[f"{O_PROJ}.weight"].shape[1]), Moments(weights[f"{DOWN_PROJ}.weight"].shape[1])
    )
    after = torch.empty_like(hidden_BTD)
    for x, out in zip(hidden_BTD.split(ROWS), after.split(ROWS), strict=True):
        context = runner.attention_context(weights, x)
        found.attention.add(context)
        x = runner.merge("attention", weights, x, runner.project(weights, O_PROJ, context))
        context = runner.ffn_context(weights, x)
        found.ffn.add(context)
        out.copy_(runner.merge("ffn", weights, x, runner.project(weights, DOWN_PROJ, context)))
    return found, after
