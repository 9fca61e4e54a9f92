"""The calibration text on its way through the dense model, whose statistics are taken layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import torch

from lathe.compressor.compute.array_store import ArrayLike, ArrayStore
from lathe.compressor.compute.workers import Sharded, shards_of
from lathe.compressor.model.decoder import LayeredModel
from lathe.compressor.statistics.collect import LayerAccumulators, batches_of, collect_layer


@dataclass(eq=False)
class CalibrationPass(Sharded["LayerCollector"]):
    """model: dense. windows: [B, T] tokens; heldout: [B] bool. store: for hidden states."""

    model: LayeredModel
    windows: torch.Tensor
    heldout: torch.Tensor
    store: ArrayStore

    def hold(self, shards: range) -> LayerCollector:
        return LayerCollector(self, shards)


class LayerCollector:
    """With some shards of the text. After a resume it runs layers again, only as far as needed."""

    def __init__(self, walk: CalibrationPass, shards: range) -> None:
        self._walk, self._at = walk, 0
        self._hidden: ArrayLike | None = None
        groups = [batches_of(walk.heldout, apart) for apart in (False, True)]
        own = ([b for g in groups for part in shards_of(g, range(s, s + 1)) for b in part] for s in shards)
        self._shards = [parts for parts in own if parts]

    def collect(self, index: int) -> Iterator[Iterator[LayerAccumulators]]:
        """Of a layer."""
        hidden = self._before(index)
        self._at += 1
        yield map(partial(self._collect, index, hidden), self._shards)

    def _collect(self, index: int, hidden: ArrayLike, shard: Sequence[torch.Tensor]) -> LayerAccumulators:
        runner, weights = self._walk.model.runner.at(index), self._walk.model.layers[index]
        return collect_layer(runner, weights, hidden, self._walk.heldout, shard)

    @torch.no_grad()
    def _before(self, index: int) -> ArrayLike:
        """The hidden states that a layer reads."""
        model, parts = self._walk.model, [*chain(*self._shards)]
        if self._hidden is None or self._at > index:
            self._at, self._hidden = 0, model.embedded(self._walk.windows, self._walk.store, parts)
        for layer in range(self._at, index):
            for part in parts:
                self._hidden[part] = model.runner.at(layer).layer(model.layers[layer], self._hidden[part])
        self._at = index
        return self._hidden
