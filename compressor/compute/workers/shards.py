"""Text in a fixed number of parts, so that a sum over it is the same whoever holds them.

Floating-point sums depend on their order. What is summed over a text is summed over the batches of each
shard, then over shards, in order: one process that holds all shards and workers that hold some of them do the
same additions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import Any, Generic, TypeVar

import torch

Tensors = Mapping[str, torch.Tensor]
Part = TypeVar("Part")
Batch = TypeVar("Batch")

SHARDS = 8
"""More workers than this do not make sums over text faster."""


class Sharded(Generic[Part]):
    """A text, and what works on its shards. It travels without that."""

    _holding: tuple[range, Part] | None = None

    def hold(self, shards: range) -> Part:
        """Returns an object for these shards; its methods yield a value for each shard with batches."""
        raise NotImplementedError

    def attach(self, shards: range) -> Part:
        """Returns what `hold` makes of these shards, and the same object if they are asked for again.

        That refers to a copy of this text, so that it goes, with all that it keeps, when this text does.
        """
        if self._holding is None or self._holding[0] != shards:
            self._holding = None
            self._holding = (shards, copy(self).hold(shards))
        return self._holding[1]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_holding"}


def shards_of(batches: Sequence[Batch], shards: range) -> list[list[Batch]]:
    """Returns the batches of these shards.

    Each shard has as many consecutive batches as the others, give or take one. Shards without batches are
    left out.
    """
    bounds = [len(batches) * shard // SHARDS for shard in range(SHARDS + 1)]
    parts = (list(batches[bounds[shard] : bounds[shard + 1]]) for shard in shards)
    return [part for part in parts if part]


def some_of(batches: Sequence[Batch], shards: range, count: int) -> list[list[Batch]]:
    """Returns the batches of these shards that are among `count` batches from all over the text."""
    chosen = set(range(0, len(batches), max(1, len(batches) // count))[:count])
    parts = [[batches[i] for i in part if i in chosen] for part in shards_of(range(len(batches)), shards)]
    return [part for part in parts if part]


def summed(parts: Iterable[Tensors]) -> Tensors:
    """Returns the sums of tensors by name, added in order as they come; the parts are left as they are."""
    sums: dict[str, torch.Tensor] = {}
    for part in parts:
        for name, value in part.items():
            sums[name] = sums[name].add_(value) if name in sums else value.clone()
    return sums
