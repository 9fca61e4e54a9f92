"""The calibration text on its way through the dense model, whose statistics are taken layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import torch

from lathe.compressor.compute.array_store import ArrayLike, ArrayStore
from lathe.compressor.compute.precision import products
from lathe.compressor.compute.workers import Sharded, shards_of
from lathe.compressor.model.decoder import LayeredModel
from lathe.compressor.statistics.collect import LayerAccumulators, batches_of, collect_layer


@dataclass(eq=False)
class CalibrationPass(Sharded["LayerCollector"]):
    """One pass of the calibration text through the dense model.

    Attributes:
        model: The dense model.
        windows: [B, T] tokens.
        heldout: [B] bool.
        store: Keeps the hidden states.
        block_inputs: Whether to accumulate the moments of what the blocks read.
        bfloat16: Whether hidden states may come from bfloat16 products, where those are faster.
    """

    model: LayeredModel
    windows: torch.Tensor
    heldout: torch.Tensor
    store: ArrayStore
    block_inputs: bool = True
    bfloat16: bool = False

    def hold(self, shards: range) -> LayerCollector:
        """Returns a collector for these shards."""
        return LayerCollector(self, shards)


class LayerCollector:
    """Accumulates statistics on some shards of the text, layer by layer.

    After a resume it runs layers again, only as far as needed.
    """

    def __init__(self, calibration: CalibrationPass, shards: range) -> None:
        self._calibration, self._position = calibration, 0
        self._hidden: ArrayLike | None = None
        groups = [batches_of(calibration.heldout, heldout) for heldout in (False, True)]
        own = ([b for g in groups for part in shards_of(g, range(s, s + 1)) for b in part] for s in shards)
        self._shards = [parts for parts in own if parts]

    def collect(self, index: int) -> Iterator[Iterator[LayerAccumulators]]:
        """Accumulates one layer's statistics, shard by shard."""
        hidden = self._before(index)
        self._position += 1
        yield map(partial(self._collect, index, hidden), self._shards)

    def last(self) -> Iterator[Iterator[tuple[torch.Tensor, torch.Tensor]]]:
        """Returns (indices of windows [n], their hidden states after the last layer [n, T, D]) by shard."""
        hidden = self._before(len(self._calibration.model.layers))
        yield ((part := torch.cat([*shard]), hidden[part]) for shard in self._shards)

    def _collect(self, index: int, hidden: ArrayLike, shard: Sequence[torch.Tensor]) -> LayerAccumulators:
        text, model = self._calibration, self._calibration.model
        runner, weights = model.runner.at(index), model.layers[index]
        return collect_layer(runner, weights, hidden, text.heldout, shard, text.block_inputs, text.bfloat16)

    @torch.no_grad()
    def _before(self, index: int) -> ArrayLike:
        """Returns the hidden states before a layer."""
        model, parts = self._calibration.model, [*chain(*self._shards)]
        if self._hidden is None or self._position > index:
            store = self._calibration.store
            self._position, self._hidden = 0, model.embedded(self._calibration.windows, store, parts)
        for layer in range(self._position, index):
            runner, weights = model.runner.at(layer), model.layers[layer]
            for part in parts:
                with products(self._calibration.store.device, self._calibration.bfloat16):
                    self._hidden[part] = runner.layer(weights, self._hidden[part])
        self._position = index
        return self._hidden
