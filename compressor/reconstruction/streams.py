"""The residual streams of the dense model and of the subnet over the same windows, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from lathe.artefact.errors import UserError
from lathe.artefact.plan import BLOCK_KINDS, BlockKind
from lathe.compressor.compute.array_store import ArrayLike, ArrayStore
from lathe.compressor.compute.workers import Sharded, shards_of
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.decoder import LayeredModel
from lathe.compressor.reconstruction.block_moments import BlockPasses
from lathe.compressor.statistics.collect import batches_of

Finished = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class BlockPosition:
    """Just before a block. finished: the layers below it, by index. attention: the subnet's block before an
    FFN in the same layer.
    """

    index: int
    kind: BlockKind
    finished: Callable[[int], Finished | None]
    attention: Finished

    @property
    def blocks(self) -> int:
        """That come before it."""
        return 2 * self.index + (self.kind == "ffn")

    def before(self, block: int) -> Finished:
        """The subnet's tensors of a block below.

        Raises:
            UserError: it is not finished.
        """
        if block == 2 * self.index:
            return self.attention
        done = self.finished(block // 2)
        if done is None:
            raise UserError(
                f"layer {block // 2} of the reform is missing from the run directory",
                "Remove it and run again.",
            )
        return done


@dataclass(eq=False)
class SequentialPass(Sharded["ResidualStreams"]):
    """The text of a reform that goes through the layers. model: dense. windows: [B, T] tokens; heldout: [B]
    bool. store: for hidden states.
    """

    model: LayeredModel
    windows: torch.Tensor
    heldout: torch.Tensor
    store: ArrayStore = field(default_factory=ArrayStore)

    def hold(self, shards: range) -> ResidualStreams:
        return ResidualStreams(self, shards)


class ResidualStreams:
    """Of some shards. They go on from where they are; one who holds them anew begins at the embedding."""

    def __init__(self, course: SequentialPass, shards: range) -> None:
        self._course, self._shards, self._past = course, shards, 0
        self._parts = [
            part
            for apart in (False, True)
            for shard in shards_of(batches_of(course.heldout, apart), shards)
            for part in shard
        ]
        self._dense, self._subnet = self._embedded(), self._embedded()
        self._after: ArrayLike | None = None

    def block(
        self, spot: BlockPosition, method: Callable[..., Iterable[Any]], *args: Any
    ) -> Iterable[Iterable[Any]]:
        """What a method of `BlockPasses` gives of the block at this spot."""
        yield method(self._at(spot), *args)

    def _at(self, spot: BlockPosition) -> BlockPasses:
        while self._past < spot.blocks:
            self._subnet = self._moved(self._subnet, spot.before(self._past))
            self._dense, self._after = self._ahead(), None
            self._past += 1
        self._after = self._ahead()
        return BlockPasses(
            self._course.model.runner.at(spot.index),
            spot.kind,
            self._dense,
            self._subnet,
            self._after,
            self._course.heldout,
            self._shards,
        )

    def _ahead(self) -> ArrayLike:
        """The dense stream past the next block."""
        if self._after is None:
            return self._moved(self._dense, self._course.model.layers[self._past // 2])
        return self._after

    @torch.no_grad()
    def _moved(self, stream: ArrayLike, weights: Weights) -> ArrayLike:
        """Past the next block with these weights."""
        runner, kind = self._course.model.runner.at(self._past // 2), BLOCK_KINDS[self._past % 2]
        return self._course.store.mapped(stream, self._parts, partial(runner.block, kind, weights))

    def _embedded(self) -> ArrayLike:
        return self._course.model.embedded(self._course.windows, self._course.store, self._parts)
