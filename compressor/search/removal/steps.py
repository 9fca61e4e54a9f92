"""Steps down from the dense model: what is least salient for what it costs goes, level by level.

A block goes to a cheaper level: an FFN without its least salient channels; attention without its least
salient KV groups, or with fewer query heads in each group. Which of its units go is free, how many says the
space. Levels are compared by the saliency that they lose per share of the budgets that they save: this takes
the place of a normalisation by the number of weights. As costs are linear but for what a block costs as a
whole, the best level is the next one, or no block at all.

Shapes: C constraints.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from lathe.artefact.errors import UserError
from lathe.artefact.plan import BlockKind, Plan
from lathe.compressor.model.pruning import Selection
from lathe.compressor.search.removal.saliency import Saliency
from lathe.compressor.search.space import Constraint, Level, Space

Removed = tuple[int, list[int]]
"""(number of a block, the query heads or channels that go)."""
_LEAST = 1e-12
_SLACK = 1 + 1e-9


@dataclass(frozen=True)
class _Move:
    """A block's way to a cheaper level, with the saliency that it loses."""

    level: Level
    removed: torch.Tensor
    lost: float


@dataclass(frozen=True)
class Steps:
    """Removes units of the layers of a model.

    Attributes:
        space: The levels of blocks.
        constraints: What they cost.
        per_group: The query heads of a KV group in the dense model.
        spared: The layers that are cut when nothing else is left.
    """

    space: Space
    constraints: Sequence[Constraint]
    per_group: int
    spared: frozenset[int]

    def costs(self, kept: Sequence[Selection]) -> np.ndarray:
        """Returns what a subnet costs, [C]."""
        plan = plan_of(kept)
        return np.array([c.cost(plan) for c in self.constraints])

    def down(
        self, kept: Sequence[Selection], saliency: Sequence[Saliency], targets: np.ndarray
    ) -> list[Removed]:
        """Returns what goes, one after the other, until a subnet costs no more than the targets [C].

        Raises:
            UserError: no attention would be left.
        """
        removed: list[Removed] = []
        whole = np.array([c.cost(self.space.plan([0] * (2 * self.space.layers))) for c in self.constraints])
        while (over := self.costs(kept) > targets * _SLACK).any():
            found = list(self._worth(kept, saliency, whole, over))
            if not found:
                raise UserError("the targets leave no plan with an attention block", "Relax one of them.")
            _, _, position, gone = min(found, key=lambda move: move[:3])
            removed.append((position, gone.sort().values.tolist()))
            kept = self.without(kept, removed[-1:])
        return removed

    def refilled(self, kept: Sequence[Selection], removed: Sequence[Removed]) -> list[Removed]:
        """Returns what goes for good: units come back, the last first, where all budgets allow them to."""
        final = list(removed)
        for at in reversed(range(len(final))):
            others = final[:at] + final[at + 1 :]
            if all(position != final[at][0] for position, _ in final[at + 1 :]):
                plan = plan_of(self.without(kept, others))
                if all(c.allows(plan) for c in self.constraints):
                    final = others
        return final

    def without(self, kept: Sequence[Selection], removed: Iterable[Removed]) -> list[Selection]:
        """Returns what is left of the layers; those of which nothing goes are the same objects."""
        left = list(kept)
        for position, gone in removed:
            layer = left[position // 2]
            if position % 2:
                left[position // 2] = replace(layer, channels=_left(layer.channels, gone))
                continue
            queries = _left(layer.query_heads, gone)
            groups = torch.unique(queries // self.per_group)
            left[position // 2] = replace(layer, query_heads=queries, kv_heads=groups)
        return left

    def _worth(
        self, kept: Sequence[Selection], saliency: Sequence[Saliency], whole: np.ndarray, over: np.ndarray
    ) -> Iterator[tuple[bool, float, int, torch.Tensor]]:
        """Yields (spared, saliency per share that is saved, number of the block, what goes) of all moves."""
        last = sum(len(layer.kv_heads) > 0 for layer in kept) == 1
        for position, (layer, kind) in enumerate(self.space.blocks):
            costs = self._of_levels(kind)
            now = costs[kept[layer].shape.heads if kind == "attention" else kept[layer].shape.width]
            for move in self._ways(kind, kept[layer], saliency[layer]):
                saved = ((now - costs[move.level]) / whole)[over].max() if move.level in costs else 0.0
                if saved > _LEAST and not (last and move.level == (0, 0)):
                    yield layer in self.spared, move.lost / saved, position, move.removed

    def _of_levels(self, kind: BlockKind) -> dict[Level, np.ndarray]:
        """Returns what each level of a kind costs, [C]."""
        found = np.array([c.costs(self.space, kind) for c in self.constraints]).T
        return dict(zip(self.space.levels(kind), found, strict=True))

    def _ways(self, kind: BlockKind, kept: Selection, saliency: Saliency) -> Iterator[_Move]:
        if kind == "ffn":
            return self._channels(kept, saliency)
        return itertools.chain(_groups(kept, saliency), _heads(kept, saliency))

    def _channels(self, kept: Selection, saliency: Saliency) -> Iterator[_Move]:
        """Yields an FFN's levels below its own, widest first."""
        scores, order = saliency.channels[kept.channels].sort(stable=True)
        lost = torch.cat([scores.new_zeros(1), scores.cumsum(0)])
        for width in (*self.space.widths, 0):
            if width < len(order):
                gone = len(order) - width
                yield _Move(width, kept.channels[order[:gone]], float(lost[gone]))


def _groups(kept: Selection, saliency: Saliency) -> Iterator[_Move]:
    """Yields attention with fewer and fewer KV groups."""
    count = len(kept.kv_heads)
    queries = kept.query_heads.view(count, -1) if count else kept.query_heads.view(0, 1)
    scores = saliency.groups[kept.kv_heads] + saliency.queries[queries].sum(1)
    scores, order = scores.sort(stable=True)
    for left in reversed(range(count)):
        gone = count - left
        level = (left * queries.shape[1], left)
        yield _Move(level, queries[order[:gone]].flatten(), float(scores[:gone].sum()))


def _heads(kept: Selection, saliency: Saliency) -> Iterator[_Move]:
    """Yields attention with fewer and fewer query heads in each KV group."""
    count = len(kept.kv_heads)
    queries = kept.query_heads.view(count, -1) if count else kept.query_heads.view(0, 1)
    scores, order = saliency.queries[queries].sort(dim=1, stable=True)
    for left in reversed(range(1, queries.shape[1])):
        gone = queries.shape[1] - left
        removed = queries.gather(1, order[:, :gone]).flatten()
        yield _Move((count * left, count), removed, float(scores[:, :gone].sum()))


def plan_of(kept: Sequence[Selection]) -> Plan:
    """Returns the widths of what is kept."""
    return Plan(tuple(layer.shape for layer in kept))


def _left(units: torch.Tensor, gone: Sequence[int]) -> torch.Tensor:
    return units[~torch.isin(units, torch.tensor(gone))]
