"""All prunable units of a model in one row: KV groups and FFN channels of layer 0, of layer 1, ...

Shapes: U units.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.quality.blocks import kinds
from benchmarks.quality.setting import Setting
from benchmarks.quality.units import UnitScores, selection
from lathe.artefact.plan import ModelShape
from lathe.compressor.model.pruning import Selection


@dataclass(frozen=True)
class UnitTable:
    """costs: parameters of each unit [U]. fixed: parameters beside them, norms and output biases."""

    shape: ModelShape
    costs: torch.Tensor
    fixed: int

    @classmethod
    def of(cls, setting: Setting) -> UnitTable:
        layer = [torch.full((kind.units,), kind.parameters) for kind in kinds(setting)]
        costs = torch.cat(layer * setting.shape.num_layers)
        return cls(setting.shape, costs, setting.dense_parameters - int(costs.sum()))

    def __len__(self) -> int:
        return len(self.costs)

    def row(self, layers: list[UnitScores]) -> torch.Tensor:
        """[U]: values of the units of every layer."""
        return torch.cat([part for layer in layers for part in (layer.groups, layer.channels)])

    def blocks(self, row: torch.Tensor) -> list[torch.Tensor]:
        """The inverse: a part for every block, attention of layer 0 first."""
        layer = self.shape.layer
        return list(row.split([layer.kv_heads, layer.ffn] * self.shape.num_layers))

    def selections(self, kept: torch.Tensor) -> list[Selection]:
        """What stays of every layer. kept: bool [U]."""
        units = [block.nonzero()[:, 0] for block in self.blocks(kept)]
        return [selection(self.shape, *pair) for pair in zip(units[::2], units[1::2], strict=True)]

    def first(self, order: torch.Tensor, budget: float) -> torch.Tensor:
        """Bool [U]: the first units of an order that a budget of parameters pays for.

        Where the next one is too dear, cheaper ones after it use up what is left.
        """
        costs, left, cheapest = self.costs[order], int(budget) - self.fixed, int(self.costs.min())
        taken = costs.cumsum(0) <= left
        left -= int(costs[taken].sum())
        for place, cost in enumerate(costs.tolist()):
            if left < cheapest:
                break
            if cost <= left and not taken[place]:
                taken[place] = True
                left -= cost
        kept = torch.zeros(len(self), dtype=torch.bool)
        kept[order[taken]] = True
        return kept
