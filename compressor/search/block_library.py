"""Pruned and reconstructed blocks, made on first use and kept while memory allows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from lathe.artefact.plan import BlockKind, LayerShape, ModelShape
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.pruning import ImportanceRanking, select
from lathe.compressor.reconstruction import ProjectionPruner, damped
from lathe.compressor.reconstruction.prune_block import prune_block
from lathe.compressor.search.space import Level
from lathe.compressor.statistics import LastingStatistics

MOST_BYTES = 2**30


class BlockLibrary:
    """The blocks of every layer at every level, reconstructed in closed form where statistics are given.

    Args:
        shape: The dense model's dimensions.
        layers: Dense weights of each layer, by name relative to the layer.
        rankings: The ranking of each layer.
        statistics: Second moments of each layer; None leaves weights as they are.
        dampings: (attention, FFN) of each layer.
        most_bytes: The most bytes of blocks to keep.
    """

    def __init__(
        self,
        shape: ModelShape,
        layers: Sequence[Weights],
        rankings: list[ImportanceRanking],
        statistics: Sequence[LastingStatistics] | None = None,
        dampings: Sequence[tuple[float, float]] = (),
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._shape, self._layers, self._rankings = shape, layers, rankings
        self._statistics, self._dampings = statistics, dampings
        self._pruner: tuple[tuple[int, BlockKind], ProjectionPruner] | None = None
        self._blocks: dict[tuple[int, BlockKind, Level], Weights] = {}
        self._most_bytes, self._bytes = most_bytes, 0

    def block(self, layer: int, kind: BlockKind, level: Level) -> Weights:
        """Returns a block's tensors at a level of `Space`."""
        key = (layer, kind, level)
        if key in self._blocks:
            return self._blocks[key]
        block = self._pruned(layer, kind, level)
        size = sum(tensor.nbytes for tensor in block.values())
        if self._bytes + size <= self._most_bytes:
            self._blocks[key] = block
            self._bytes += size
        return block

    def _pruned(self, layer: int, kind: BlockKind, level: Level) -> Weights:
        statistics = self._statistics[layer] if self._statistics else None
        return prune_block(
            self._shape,
            kind,
            self._layers[layer],
            select(self._rankings[layer], alone_in_layer(kind, level)),
            partial(self._solve, layer, kind),
            statistics,
        )

    def _solve(self, layer: int, kind: BlockKind, weight: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """Returns the output projection [D, k]; consecutive levels of a block share a pruner."""
        if self._statistics is None:
            return weight[:, kept].contiguous()
        key = (layer, kind)
        if self._pruner is None or self._pruner[0] != key:
            self._pruner = None
            self._pruner = key, self._new_pruner(self._statistics[layer], layer, kind, weight)
        return self._pruner[1].solve(kept)

    def _new_pruner(
        self, statistics: LastingStatistics, layer: int, kind: BlockKind, weight: torch.Tensor
    ) -> ProjectionPruner:
        attention, ffn = self._dampings[layer]
        if kind == "attention":
            return ProjectionPruner(weight, damped(statistics.attention, attention))
        return ProjectionPruner(weight, damped(statistics.ffn, ffn), self._rankings[layer].channels)


def alone_in_layer(kind: BlockKind, level: Level) -> LayerShape:
    """Returns a layer's widths with only this block."""
    if kind == "attention":
        assert isinstance(level, tuple)
        return LayerShape(*level, 0)
    return LayerShape.of((0, 0), level)
