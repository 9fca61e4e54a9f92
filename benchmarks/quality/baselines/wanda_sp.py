"""Wanda-sp: Wanda's score summed over what goes together.

Wanda (arXiv 2306.11695, Eq. 1) scores a weight by |W_ij| * ||X_j||_2, X_j the input feature over all
calibration tokens. FLAP (arXiv 2312.11983) makes it structured for comparison: a channel's score is the mean
over the rows of its column of down_proj, a group's the sum over its columns of o_proj. The same widths in
every layer; no weight changes. As in both papers a layer's inputs come from the layers already pruned.
"""

from __future__ import annotations

import torch

from benchmarks.quality.layer_step import step
from benchmarks.quality.moments import LayerMoments, layer_moments
from benchmarks.quality.setting import Setting, Subnet, baselines
from benchmarks.quality.units import UnitScores, best, by_group
from lathe.artefact.plan import Plan
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.names import DOWN_PROJ, O_PROJ


@baselines.register("wanda-sp")
def wanda_sp(setting: Setting, keep: float) -> Subnet:
    widths = setting.uniform(keep)
    layers: list[Weights] = []
    hidden = setting.embed(setting.fit)
    for index, weights in enumerate(setting.layers):
        moments, _ = layer_moments(setting, index, hidden)
        layers.append(setting.prune(index, best(setting.shape, scores(setting, weights, moments), widths)))
        hidden = step(setting, index, layers[-1], hidden)
    return setting.subnet(layers, plan=Plan((widths,) * len(layers)))


def scores(setting: Setting, weights: Weights, moments: LayerMoments) -> UnitScores:
    def columns(name: str, norm: torch.Tensor) -> torch.Tensor:
        return weights[f"{name}.weight"].double().abs().mean(0) * norm

    groups = by_group(setting.shape, columns(O_PROJ, moments.attention.norm))
    return UnitScores(groups, columns(DOWN_PROJ, moments.ffn.norm))
