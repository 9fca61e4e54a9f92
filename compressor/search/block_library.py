"""Cut and reformed blocks, made when first asked for and kept while there is room."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from lathe.artefact.plan import BlockKind, LayerShape, ModelShape, Width
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.names import DOWN_PROJ, O_PROJ
from lathe.compressor.model.pruning import ImportanceRanking, prune_attention, prune_ffn, rows, select
from lathe.compressor.reconstruction import ProjectionPruner, damped
from lathe.compressor.reconstruction.head_norms import rescale_qk_norm
from lathe.compressor.search.space import Heads, Level
from lathe.compressor.statistics import LastingStatistics

MOST = 2**30


class BlockLibrary:
    """Blocks of every layer at every width, with the closed-form reform when Gram matrices are given.

    Args:
        layers: dense weights of each layer, by name relative to the layer.
        statistics, dampings: (attention, ffn) of each layer; None leaves weights as they are.
        most: bytes of blocks that are kept.
    """

    def __init__(
        self,
        shape: ModelShape,
        layers: Sequence[Weights],
        rankings: list[ImportanceRanking],
        statistics: Sequence[LastingStatistics] | None = None,
        dampings: Sequence[tuple[float, float]] = (),
        most: int = MOST,
    ) -> None:
        self._shape, self._layers, self._orders = shape, layers, rankings
        self._statistics, self._dampings = statistics, dampings
        self._reforms: tuple[tuple[int, BlockKind], ProjectionPruner] | None = None
        self._blocks: dict[tuple[int, BlockKind, Level], Weights] = {}
        self._most, self._kept = most, 0

    def block(self, layer: int, kind: BlockKind, level: Level) -> Weights:
        """A block's tensors at a level of `Space`."""
        key = (layer, kind, level)
        if key in self._blocks:
            return self._blocks[key]
        make: Callable[[int, Any], Weights] = self._attention if kind == "attention" else self._ffn
        made = make(layer, level)
        size = sum(tensor.nbytes for tensor in made.values())
        if self._kept + size <= self._most:
            self._blocks[key] = made
            self._kept += size
        return made

    def _attention(self, layer: int, heads: Heads) -> Weights:
        dense = self._layers[layer]
        selection = select(self._orders[layer], LayerShape(*heads, 0))
        cut = prune_attention(self._shape, dense, selection)
        if cut and heads[0] < self._shape.layer.query_heads:
            kept = rows(selection.query_heads, self._shape.head_dim)
            self._reform(cut, layer, "attention", O_PROJ, kept)
            if self._statistics:
                cut = rescale_qk_norm(self._shape, self._statistics[layer], selection, cut)
        return cut

    def _ffn(self, layer: int, width: Width) -> Weights:
        dense = self._layers[layer]
        wanted = LayerShape.of((0, 0), width)
        selection = select(self._orders[layer], wanted)
        cut = prune_ffn(dense, selection)
        if cut and wanted.ffn < self._shape.layer.ffn:
            self._reform(cut, layer, "ffn", DOWN_PROJ, selection.channels)
        return cut

    def _reform(
        self, cut: dict[str, torch.Tensor], layer: int, kind: BlockKind, name: str, kept: torch.Tensor
    ) -> None:
        if self._statistics is None:
            return
        key = (layer, kind)
        if self._reforms is None or self._reforms[0] != key:
            self._reforms = None
            self._reforms = key, self._solver(self._statistics[layer], layer, kind, name)
        cut[f"{name}.weight"] = self._reforms[1](kept)

    def _solver(
        self, statistics: LastingStatistics, layer: int, kind: BlockKind, name: str
    ) -> ProjectionPruner:
        weight, (attention, ffn) = self._layers[layer][f"{name}.weight"], self._dampings[layer]
        if kind == "attention":
            return ProjectionPruner(weight, damped(statistics.attention, attention))
        return ProjectionPruner(weight, damped(statistics.ffn, ffn), self._orders[layer].channels)
