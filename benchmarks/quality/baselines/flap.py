"""FLAP (arXiv 2312.11983): what varies least goes, and its mean stays as a bias.

Structure: "AL-AM" standardises scores within their module, gives a head the mean over its features and
lets one threshold over all layers and modules decide; "UL-UM" keeps the same widths in every layer. Metric:
"WIFV" scores a feature that o_proj or down_proj reads by its sample variance over the calibration tokens
times the squared norm of its column, "WIFN" by its norm times the column's mean size. The paper chooses
AL-AM and WIFV for LLaMA; of its ablation these four are made and the best on held-out text is returned,
since in shallow models the choice fails: at 50 % it leaves one of the four KV groups in our 10-layer model's
first layer, which costs 0.4 nats by itself. Compensation: the mean of what is omitted, through the omitted
columns, becomes the projection's bias.

From the authors' code, where the paper leaves it open: attention scores are squared before they are
standardised, and a head weighs as many channels as its parameters pay for when the threshold is placed.
Chosen here: with grouped queries the unit is a KV group; where the next unit is dearer than what is left of
the budget, cheaper ones below the threshold use it up; a block keeps at least its best unit, for a bias
needs a projection to sit on (scores have mean 0 in every block, so ordinary shares never come to that).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from benchmarks.quality.moments import LayerMoments, Moments, layer_moments
from benchmarks.quality.setting import Setting, Subnet, baselines
from benchmarks.quality.units import UnitScores, best, by_group, selection
from lathe.artefact.plan import LayerShape, ModelShape, Plan
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.names import DOWN_PROJ, O_PROJ
from lathe.compressor.model.pruning import Selection, rows

METRICS: dict[str, Callable[[torch.Tensor, Moments], torch.Tensor]] = {
    "WIFV": lambda weight, inputs: inputs.variance * weight.square().sum(0),
    "WIFN": lambda weight, inputs: inputs.norm * weight.abs().mean(0),
}


@dataclass(frozen=True)
class Mask:
    """FLAP's choice. layers: pruned and compensated. tried: how many there were to choose from."""

    kept: list[Selection]
    layers: list[Weights]
    facts: dict[str, Any]
    tried: int

    @property
    def plan(self) -> Plan:
        return Plan(tuple(layer.shape for layer in self.kept))


@baselines.register("flap")
def flap(setting: Setting, keep: float) -> Subnet:
    found = mask(setting, keep)
    return setting.subnet(found.layers, candidates=found.tried, plan=found.plan, facts=found.facts)


def mask(setting: Setting, keep: float) -> Mask:
    """The structure and metric that lose least on held-out text."""
    moments = dense_moments(setting)
    kept = structures(setting, moments, keep)
    losses = {n: setting.loss(compensated(setting, moments, k), setting.heldout) for n, k in kept.items()}
    metric, structure = chosen = min(losses, key=losses.__getitem__)
    layers = compensated(setting, moments, kept[chosen])
    return Mask(kept[chosen], layers, {"metric": metric, "structure": structure}, len(kept))


def dense_moments(setting: Setting) -> list[LayerMoments]:
    """Of every layer, on the calibration text."""
    if "moments" not in setting.shared:
        moments, hidden = [], setting.embed(setting.fit)
        for index in range(len(setting.layers)):
            found, hidden = layer_moments(setting, index, hidden)
            moments.append(found)
        setting.shared["moments"] = moments
    return list(setting.shared["moments"])


def structures(
    setting: Setting, moments: list[LayerMoments], keep: float
) -> dict[tuple[str, str], list[Selection]]:
    """What stays of every layer, by metric and structure."""
    found = {}
    for metric in METRICS:
        scores = [standardised(setting, metric, w, m) for w, m in zip(setting.layers, moments, strict=True)]
        found[metric, "AL-AM"] = one_threshold(setting.shape, scores, keep * setting.dense_parameters)
        found[metric, "UL-UM"] = same_widths(setting, scores, keep)
    return found


def standardised(setting: Setting, metric: str, weights: Weights, moments: LayerMoments) -> UnitScores:
    """Scores in standard deviations of their module, which changes no order within it."""

    def score(name: str, inputs: Moments) -> torch.Tensor:
        return METRICS[metric](weights[f"{name}.weight"].double(), inputs)

    def standardise(x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean()) / x.std()

    heads = standardise(score(O_PROJ, moments.attention).square())
    groups = by_group(setting.shape, heads) * setting.shape.layer.kv_heads / len(heads)
    return UnitScores(groups, standardise(score(DOWN_PROJ, moments.ffn)))


def same_widths(setting: Setting, scores: list[UnitScores], keep: float) -> list[Selection]:
    """What stays of every layer when all have the same widths, biases paid for."""
    shape, widths = setting.shape, setting.uniform(keep)
    left = keep * setting.dense_parameters / shape.num_layers - _attention_cost(shape, widths.kv_heads)
    channels = next((n for n in range(shape.layer.ffn, 0, -1) if _ffn_cost(shape, n) <= left), 0)
    widths = replace(widths, ffn=channels)
    return [best(shape, layer, widths) for layer in scores]


@dataclass
class _Block:
    """A block while units are taken into it. cost: parameters of the block with so many units."""

    scores: torch.Tensor
    cost: Callable[[int], int]
    taken: list[int] = field(default_factory=list)

    def ranked(self) -> list[tuple[bool, float, int]]:
        """(not the best of the block, score downwards, unit): what sorts first is taken first."""
        best = int(self.scores.argmax())
        return [(unit != best, -score, unit) for unit, score in enumerate(self.scores.tolist())]


def one_threshold(shape: ModelShape, scores: list[UnitScores], budget: float) -> list[Selection]:
    """What stays of every layer when units of all blocks are taken by score while they fit."""
    blocks = []
    for layer in scores:
        blocks.append(_Block(layer.groups, lambda n: _attention_cost(shape, n)))
        blocks.append(_Block(layer.channels, lambda n: _ffn_cost(shape, n)))
    units = [(*rank, number) for number, block in enumerate(blocks) for rank in block.ranked()]
    for _, _, unit, number in sorted(units):
        block = blocks[number]
        price = block.cost(len(block.taken) + 1) - block.cost(len(block.taken))
        if price <= budget:
            budget -= price
            block.taken.append(unit)
    taken = [torch.tensor(sorted(block.taken), dtype=torch.long) for block in blocks]
    return [selection(shape, *pair) for pair in zip(taken[::2], taken[1::2], strict=True)]


def _attention_cost(shape: ModelShape, groups: int) -> int:
    bias = 0 if shape.attention_bias or groups in (0, shape.layer.kv_heads) else shape.hidden_size
    return bias + shape.attention_parameters(LayerShape(groups * shape.layer.heads_per_group, groups, 0))


def _ffn_cost(shape: ModelShape, channels: int) -> int:
    bias = 0 if shape.mlp_bias or channels in (0, shape.layer.ffn) else shape.hidden_size
    return bias + shape.ffn_parameters(LayerShape(0, 0, channels))


def compensated(setting: Setting, moments: list[LayerMoments], kept: list[Selection]) -> list[Weights]:
    return [
        {**setting.prune(i, chosen), **biases(setting, setting.layers[i], moments[i], chosen)}
        for i, chosen in enumerate(kept)
    ]


def biases(
    setting: Setting, weights: Weights, moments: LayerMoments, chosen: Selection
) -> dict[str, torch.Tensor]:
    """Biases of o_proj and down_proj, [D] each, of blocks that omit something and are still there."""
    features = rows(chosen.query_heads, setting.shape.head_dim)
    found = {}
    for name, mean, kept in (
        (O_PROJ, moments.attention.mean, features),
        (DOWN_PROJ, moments.ffn.mean, chosen.channels),
    ):
        if 0 < len(kept) < len(mean):
            gone = torch.ones(len(mean), dtype=torch.bool)
            gone[kept] = False
            lost = (weights[f"{name}.weight"][:, gone].double() @ mean[gone]).float()
            found[f"{name}.bias"] = lost + weights.get(f"{name}.bias", 0)
    return found
