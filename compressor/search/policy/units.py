"""The units that a mask keeps or drops, and what a block costs with so many of them.

A unit of attention is a KV group with its query heads, as many as the start has in that layer. A unit of an
FFN is a block of channels that follow each other in the layer's ranking, as wide as the steps of the space.
Where the levels of attention are further apart, a unit is so many groups. The last unit has what is left. A
block with n units costs what the narrowest level costs that holds n whole ones.

Shapes: X blocks, U the most units of a block, C constraints. Masks and probabilities are [X, 1 + U]: whether
the block is kept at all, then its units; a block with fewer units never keeps those behind its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from lathe.artefact.plan import BlockKind, Plan
from lathe.compressor.model.pruning import ImportanceRanking, rows
from lathe.compressor.search.space import Constraint, Space


@dataclass(frozen=True)
class BlockUnits:
    """The units of one block.

    Attributes:
        kind: "attention" or "ffn".
        items: KV heads or channels of the layer, most valuable first.
        size: The number of items in a unit.
        levels: The index in the space of the level with n units, for n from 0 on.
    """

    kind: BlockKind
    items: torch.Tensor
    size: int
    levels: tuple[int, ...]

    @property
    def count(self) -> int:
        """Returns the number of units."""
        return len(self.levels) - 1

    def kept(self, row: np.ndarray) -> torch.Tensor:
        """Returns which items [n] a row [1 + U] of a mask keeps, in the order of the ranking."""
        units = row[1 : 1 + self.count] & row[0]
        return torch.from_numpy(units.repeat(self.size)[: len(self.items)])

    def order(self, row: np.ndarray) -> torch.Tensor:
        """Returns all items, those that a row of a mask keeps first, both parts as they are ranked."""
        kept = self.kept(row)
        return torch.cat([self.items[kept], self.items[~kept]])


@dataclass(frozen=True)
class Units:
    """The units of all blocks.

    Attributes:
        space: The levels of blocks.
        rankings: The ranking of each layer.
        blocks: The units of each block, in the order of the space.
        per_group: The query heads of a KV group in each layer.
    """

    space: Space
    rankings: list[ImportanceRanking]
    blocks: tuple[BlockUnits, ...]
    per_group: tuple[int, ...]

    @property
    def most(self) -> int:
        """Returns the most units of a block."""
        return max(block.count for block in self.blocks)

    @property
    def exist(self) -> np.ndarray:
        """Returns which entries of a mask stand for something, [X, 1 + U]."""
        counts = np.array([block.count for block in self.blocks])
        return np.arange(1 + self.most) <= counts[:, None]

    def costs(self, constraints: Sequence[Constraint]) -> np.ndarray:
        """Returns what each block costs with n units, [C, X, 1 + U]; behind the last as with all."""
        table = np.empty((len(constraints), len(self.blocks), 1 + self.most))
        for constraint, own in zip(constraints, table, strict=True):
            for row, block in zip(own, self.blocks, strict=True):
                costs = np.array(constraint.costs(self.space, block.kind))[list(block.levels)]
                row[: len(costs)], row[len(costs) :] = costs, costs[-1]
        return table

    def mask_of(self, plan: Plan) -> np.ndarray:
        """Returns the mask [X, 1 + U] of the most valuable units of a plan that has levels of these units."""
        mask = np.zeros((len(self.blocks), 1 + self.most), dtype=bool)
        for row, block, level in zip(mask, self.blocks, self.space.indices(plan), strict=True):
            count = block.count - block.levels[::-1].index(level)
            row[: 1 + count] = count > 0
        return mask

    def subnet(self, mask: np.ndarray) -> tuple[Plan, list[ImportanceRanking]]:
        """Returns the plan that holds a mask, and rankings whose first items are those of the mask."""
        counts = (mask[:, 1:] & mask[:, :1]).sum(1).tolist()
        plan = self.space.plan(block.levels[n] for block, n in zip(self.blocks, counts, strict=True))
        orders = [block.order(row) for block, row in zip(self.blocks, mask, strict=True)]
        rankings = [
            replace(ranking, groups=groups, channels=channels)
            for ranking, groups, channels in zip(self.rankings, orders[::2], orders[1::2], strict=True)
        ]
        return plan, rankings

    def columns(self, position: int, row: np.ndarray, head_dim: int) -> torch.Tensor:
        """Returns the columns of a block's output projection that a row [1 + U] of a mask keeps."""
        block, layer = self.blocks[position], position // 2
        items = block.items[block.kept(row)]
        if block.kind == "ffn":
            return items
        return rows(self.rankings[layer].heads[items, : self.per_group[layer]].flatten(), head_dim)

    def width(self, position: int, head_dim: int) -> int:
        """Returns how many columns the output projection of a block of the dense model has."""
        heads = self.rankings[position // 2].heads
        return heads.numel() * head_dim if position % 2 == 0 else len(self.blocks[position].items)

    def sums(self, values: Sequence[torch.Tensor | None], head_dim: int) -> np.ndarray:
        """Returns sums [X, 1 + U] over the columns of each unit, of values by block; none sums to nothing."""
        found, everything = np.zeros(self.exist.shape), np.ones(1 + self.most, dtype=bool)
        for position, (block, of_columns) in enumerate(zip(self.blocks, values, strict=True)):
            if of_columns is not None:
                own = of_columns.cpu()[self.columns(position, everything, head_dim)].double()
                by_item = own.view(len(block.items), -1).sum(1)
                parts = by_item.split(block.size)
                found[position, 1 : 1 + block.count] = [float(part.sum()) for part in parts]
        return found


def make_units(space: Space, rankings: list[ImportanceRanking], start: Plan) -> Units:
    """Returns the units of a space whose attention has as many query heads in a group as a plan.

    A layer whose attention the plan drops has all of them.
    """
    all_heads = max(query // kv for query, kv in space.attention if kv)
    per_group = tuple(layer.heads_per_group or all_heads for layer in start)
    blocks = []
    for layer, kind in space.blocks:
        if kind == "ffn":
            blocks.append(_block_units(kind, rankings[layer].channels, dict(enumerate(space.widths))))
            continue
        heads = enumerate(space.attention)
        groups = {at: kv for at, (query, kv) in heads if kv * per_group[layer] == query}
        blocks.append(_block_units(kind, rankings[layer].groups, groups))
    return Units(space, rankings, tuple(blocks), per_group)


def _block_units(kind: BlockKind, items: torch.Tensor, widths: dict[int, int]) -> BlockUnits:
    """Returns a block's units from its levels' widths by their indices; the dropped level has width 0."""
    ascending = sorted((width, level) for level, width in widths.items())
    *between, (widest, _) = ascending
    size = math.gcd(*(width for width, _ in between)) or widest
    held = [min(n * size, widest) for n in range(1 + math.ceil(widest / size))]
    levels = (next(level for width, level in ascending if width >= least) for least in held)
    return BlockUnits(kind, items, size, tuple(levels))
