"""The residual streams of the dense model and of the subnet over the same windows, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any

import torch

from lathe.artefact.errors import UserError
from lathe.artefact.plan import BLOCK_KINDS, BlockKind
from lathe.compressor.compute.array_store import ArrayLike, ArrayStore
from lathe.compressor.compute.precision import products
from lathe.compressor.compute.workers import Sharded, Workers, shards_of
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.decoder import LayeredModel
from lathe.compressor.model.embedding import Embedding
from lathe.compressor.reconstruction.block_contexts import BlockContexts
from lathe.compressor.reconstruction.block_moments import BlockPasses, MapShards
from lathe.compressor.statistics.collect import batches_of

Finished = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class BlockPosition:
    """The position just before a block.

    Attributes:
        index: The block's layer.
        kind: "attention" or "ffn".
        finished: Returns the finished layers below, by index.
        attention: The subnet's attention block before an FFN in the same layer.
    """

    index: int
    kind: BlockKind
    finished: Callable[[int], Finished | None]
    attention: Finished

    @property
    def blocks(self) -> int:
        """Returns the number of blocks before this position."""
        return 2 * self.index + (self.kind == "ffn")

    def before(self, block: int) -> Finished:
        """Returns the subnet's tensors of a block below.

        Raises:
            UserError: the block is not finished.
        """
        if block == 2 * self.index:
            return self.attention
        done = self.finished(block // 2)
        if done is None:
            raise UserError(
                f"layer {block // 2} of the reconstruction is missing from the run directory",
                "Remove it and run again.",
            )
        return done


@dataclass(eq=False)
class SequentialPass(Sharded["ResidualStreams"]):
    """One pass of the text through the layers, block by block.

    Attributes:
        model: The dense model.
        windows: [B, T] tokens.
        heldout: [B] bool.
        store: Keeps hidden states.
        bfloat16: Whether they may come from bfloat16 products, where those are faster.
        embedding: The subnet's, where that is not the model's.
    """

    model: LayeredModel
    windows: torch.Tensor
    heldout: torch.Tensor
    store: ArrayStore = field(default_factory=ArrayStore)
    bfloat16: bool = False
    embedding: Embedding | None = None

    def hold(self, shards: range) -> ResidualStreams:
        """Returns the streams of these shards, at the embedding."""
        return ResidualStreams(self, shards)

    @property
    def subnet(self) -> LayeredModel:
        """Returns the model with the subnet's embedding."""
        return self.model if self.embedding is None else replace(self.model, embedding=self.embedding)


class ResidualStreams:
    """The streams of some shards, which move on from block to block; new ones begin at the embedding."""

    def __init__(self, text: SequentialPass, shards: range) -> None:
        self._text, self._shards, self._past = text, shards, 0
        self._parts = [
            part
            for heldout in (False, True)
            for shard in shards_of(batches_of(text.heldout, heldout), shards)
            for part in shard
        ]
        self._dense, self._subnet = self._embedded(text.model), self._embedded(text.subnet)
        self._after: ArrayLike | None = None
        self._contexts = BlockContexts(text.store)

    def block(
        self, position: BlockPosition, method: Callable[..., Iterable[Any]], *args: Any
    ) -> Iterable[Iterable[Any]]:
        """Calls a method of `BlockPasses` on the block at this position."""
        yield method(self._passes_at(position), *args)

    def _passes_at(self, position: BlockPosition) -> BlockPasses:
        while self._past < position.blocks:
            block = position.before(self._past)
            read = self._contexts.take(BLOCK_KINDS[self._past % 2], block)
            self._subnet = self._moved(self._subnet, block, read)
            self._dense, self._after = self._ahead(), None
            self._past += 1
        self._after = self._ahead()
        return BlockPasses(
            self._text.model.runner.at(position.index),
            position.kind,
            self._dense,
            self._subnet,
            self._after,
            self._text.heldout,
            self._shards,
            self._text.bfloat16,
            self._contexts,
        )

    def _ahead(self) -> ArrayLike:
        """Returns the dense stream after the next block."""
        if self._after is None:
            return self._moved(self._dense, self._text.model.layers[self._past // 2])
        return self._after

    @torch.no_grad()
    def _moved(self, stream: ArrayLike, weights: Weights, read: ArrayLike | None = None) -> ArrayLike:
        """Moves a stream past the next block, which has these weights.

        Args:
            stream: The stream before the block.
            weights: The block's.
            read: The input of its output projection, where that is known.
        """
        runner, kind = self._text.model.runner.at(self._past // 2), BLOCK_KINDS[self._past % 2]
        with products(self._text.store.device, self._text.bfloat16):
            mapped = partial(self._text.store.mapped, stream, self._parts)
            if read is None:
                return mapped(partial(runner.block, kind, weights))
            return mapped(partial(runner.finish, kind, weights), read)

    def _embedded(self, model: LayeredModel) -> ArrayLike:
        return model.embedded(self._text.windows, self._text.store, self._parts)


def on_workers(workers: Workers, text: SequentialPass, position: BlockPosition) -> MapShards:
    """Returns a function that runs the block at a position on the workers' shards of a text."""

    def map_shards(method: Callable[..., Iterable[Any]], *args: Any) -> Iterable[Any]:
        return chain.from_iterable(workers.map_shards(text, ResidualStreams.block, position, method, *args))

    return map_shards
