"""What whole-layer methods share: how many layers fit, and the subnet that is left."""

from __future__ import annotations

from collections.abc import Collection

from benchmarks.quality.setting import Setting, Subnet
from lathe.artefact.plan import LayerShape, Plan
from lathe.compressor.model.block_runner import Weights


def layers_to_drop(setting: Setting, keep: float) -> int:
    """The fewest whole layers without which the rest fits the budget."""
    count, budget = setting.shape.num_layers, keep * setting.dense_parameters
    one = setting.dense_parameters // count
    return next(n for n in range(count + 1) if (count - n) * one <= budget)


def without(setting: Setting, dropped: Collection[int], candidates: int = 0) -> Subnet:
    """The dense model without some of its layers."""
    nothing: Weights = {}
    indices = range(setting.shape.num_layers)
    return setting.subnet(
        [nothing if i in dropped else setting.layers[i] for i in indices],
        candidates=candidates,
        plan=Plan(tuple(LayerShape(0, 0, 0) if i in dropped else setting.shape.layer for i in indices)),
    )
