"""GISP (Wang et al., ACL 2026, arXiv 2510.18030): units by a first-order loss estimate, in many small steps.

Each step removes a small share of the parameters, the units of all layers ranked together, and computes
gradients anew on what is left; nothing is compensated. The steps of one run are nested: a larger `keep` is an
earlier one. A unit's saliency is the sum of |w * dL/dw| over the weights that it owns, dL/dw the gradient of
the mean loss on calibration text.

From the authors' code (uncc-efficient-ai/GISP), where the paper leaves it open: 112 steps to 30 % of the
parameters, all of one size; the first tenth of the layers and the last one stay whole. The normalisation by
block divides a head's saliency by four times its width and the model's, a channel's by three times the FFN's
width ("code"). Dividing by the number of weights that a unit owns is the other reading ("weights"). Both are
run, and the better on held-out text is returned: on our small model that is the first at 80 %, the other at
50 %.

Scaled down: gradients of 4,096 tokens at each step, drawn anew, for 512,000 (2,000 C4 sequences of 256
tokens). Chosen here: KV groups for heads; shares are of parameters, for the code's of units; where the budget
falls between two steps, the last step is shorter; whole layers are cut when nothing else is left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.quality.gradients import gradients
from benchmarks.quality.setting import Setting, Subnet, baselines
from benchmarks.quality.unit_table import UnitTable
from benchmarks.quality.units import UnitScores, owned_by_groups
from lathe.artefact.plan import ModelShape, Plan
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.pruning import Selection
from lathe.compressor.search.removal.saliency import owned_by_channels

_STEP = 0.7 / 112
_TOKENS = 4096


def _by_code(shape: ModelShape) -> tuple[int, int]:
    heads = shape.layer.heads_per_group
    return 4 * heads * shape.head_dim * shape.hidden_size, 3 * shape.layer.ffn


def _by_weights(shape: ModelShape) -> tuple[int, int]:
    heads = shape.layer.heads_per_group
    return 2 * (heads + 1) * shape.head_dim * shape.hidden_size, 3 * shape.hidden_size


NORMALISATIONS: dict[str, Callable[[ModelShape], tuple[int, int]]] = {
    "code": _by_code,
    "weights": _by_weights,
}
"""What the sums of a KV group and of a channel are divided by."""


@baselines.register("gisp")
def gisp(setting: Setting, keep: float) -> Subnet:
    found = [_subnet(setting, trajectory(setting, name), keep) for name in NORMALISATIONS]
    text = setting.heldout
    return min(found, key=lambda subnet: setting.head.loss(text, subnet.hidden(text)))


def trajectory(setting: Setting, normalisation: str) -> Trajectory:
    """The one that all keeps share."""
    name = f"gisp {normalisation}"
    if name not in setting.shared:
        setting.shared[name] = Trajectory(setting, normalisation)
    made: Trajectory = setting.shared[name]
    return made


def _subnet(setting: Setting, run: Trajectory, keep: float) -> Subnet:
    kept, steps = run.down_to(keep)
    chosen = run.table.selections(kept)
    return setting.subnet(
        [setting.prune(index, part) for index, part in enumerate(chosen)],
        candidates=len(NORMALISATIONS),
        plan=Plan(tuple(part.shape for part in chosen)),
        facts={
            "steps": steps,
            "tokens_per_step": run.tokens_per_step,
            "normalisation": run.normalisation,
        },
    )


@dataclass(frozen=True)
class _State:
    """A nested subnet. kept: bool [U]. order: its units [k] by saliency, highest first."""

    kept: torch.Tensor
    order: torch.Tensor


class Trajectory:
    """The steps made so far, from the dense model down; others are made when a smaller `keep` asks."""

    def __init__(self, setting: Setting, normalisation: str) -> None:
        self.table, self._setting, self.normalisation = UnitTable.of(setting), setting, normalisation
        self._windows = max(1, _TOKENS // setting.fit.shape[1])
        self.tokens_per_step = min(self._windows, len(setting.fit)) * setting.fit.shape[1]
        self._spared = self._whole_layers()
        self._states: list[_State] = []

    def down_to(self, keep: float) -> tuple[torch.Tensor, int]:
        """The units that stay, and after how many steps."""
        step, dense = 0, self._setting.dense_parameters
        while 1 - (step + 1) * _STEP > keep + 1e-9:
            step += 1
        if keep >= 1:
            return torch.ones(len(self.table), dtype=torch.bool), 0
        return self.table.first(self._state(step).order, keep * dense), step + 1

    def _state(self, step: int) -> _State:
        """The subnet after so many whole steps."""
        while len(self._states) <= step:
            number, kept = len(self._states), torch.ones(len(self.table), dtype=torch.bool)
            if number:
                share = (1 - number * _STEP) * self._setting.dense_parameters
                kept = self.table.first(self._states[-1].order, share)
            self._states.append(_State(kept, self._ranked(kept, number)))
        return self._states[step]

    def _ranked(self, kept: torch.Tensor, step: int) -> torch.Tensor:
        setting = self._setting
        generator = torch.Generator().manual_seed(1000 * setting.seed + step)
        drawn = torch.randperm(len(setting.fit), generator=generator)[: self._windows]
        found = saliency(setting, self.table.selections(kept), setting.fit[drawn], self.normalisation)
        scores = torch.full((len(self.table),), -1.0, dtype=torch.float64)
        scores[kept] = self.table.row(found)
        scores[self._spared & kept] += 1 + scores.max()
        return scores.argsort(descending=True, stable=True)[: int(kept.sum())]

    def _whole_layers(self) -> torch.Tensor:
        """Bool [U]: units of layers that are cut last."""
        layers = self._setting.shape.num_layers
        spared = torch.zeros(len(self.table), dtype=torch.bool)
        for position, block in enumerate(self.table.blocks(spared)):
            block[:] = not int(layers * 0.1) <= position // 2 < layers - 1
        return spared


def saliency(
    setting: Setting, kept: list[Selection], tokens_BT: torch.Tensor, normalisation: str
) -> list[UnitScores]:
    """Of what is left of every layer, normalised by block, float64."""
    by_group, by_channel = NORMALISATIONS[normalisation](setting.shape)
    layers: list[Weights] = [setting.prune(index, part) for index, part in enumerate(kept)]
    found = []
    for chosen, weights, slopes in zip(kept, layers, gradients(setting, layers, tokens_BT), strict=True):
        values = {name: (weights[name] * slope).abs().double() for name, slope in slopes.items()}
        groups = channels = torch.zeros(0, dtype=torch.float64)
        if len(chosen.kv_heads):
            groups = owned_by_groups(values, len(chosen.kv_heads)) / by_group
        if len(chosen.channels):
            channels = owned_by_channels(values) / by_channel
        found.append(UnitScores(groups, channels))
    return found
