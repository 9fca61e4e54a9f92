"""The scales of an int8 KV cache, from a text that a model reads.

A code must hold the largest value of its channel. What a rotation turns are pairs of a key's channels, whose
length it keeps: so the largest length of a pair on the text, and not the largest value of a channel, bounds
both at every position. Channels that turn slowly show a part of their range only in windows that are shorter
than the contexts that are served (`make bench-kv-cache` compares both).

Shapes: B windows, K KV heads, T tokens, H head dim.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from lathe.compressor.compute.array_store import ArrayStore
from lathe.compressor.model.cache_rounding import HIGHEST, CacheScales
from lathe.compressor.model.decoder import LayeredModel

TOKENS = 8_192
"""Of text that scales are measured on."""
_BATCH = 4
_FLOOR = 1e-3
"""The least scale, as a share of the largest of its head: what the text leaves empty may not stay so."""


@torch.no_grad()
def measure_cache_scales(
    model: LayeredModel,
    windows_BT: torch.Tensor,
    store: ArrayStore,
    advance: Callable[[], None] = lambda: None,
) -> dict[int, CacheScales]:
    """Returns the scales of every layer with attention, by its index.

    Args:
        model: The model whose keys and values are meant, with its widths.
        windows_BT: The text.
        store: Keeps hidden states.
        advance: Is called after every layer.
    """
    parts = torch.arange(len(windows_BT)).split(_BATCH)
    hidden = model.embedded(windows_BT, store, parts)
    found = {}
    for index, layer in enumerate(model.layers):
        runner = model.runner.at(index)
        peaks = _Peaks(runner.rotated_channels)
        for part in parts:
            hidden[part] = runner.layer(layer, hidden[part], (peaks, 0))
        if peaks.seen:
            found[index] = CacheScales(*(_scales(peak) for peak in peaks.seen))
        advance()
    return found


class _Peaks:
    """Watches what attention gives its cache, in the cache's place: the largest lengths, `seen` as [K, H]."""

    def __init__(self, rotated: int) -> None:
        self._rotated = rotated
        self.seen: list[torch.Tensor] = []

    def update(
        self, keys_BKTH: torch.Tensor, values_BKTH: torch.Tensor, *_args: object, **_kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns both as they are."""
        found = [lengths(keys_BKTH, self._rotated).amax((0, 2)), values_BKTH.abs().amax((0, 2))]
        self.seen = [torch.maximum(*both) for both in zip(self.seen or found, found, strict=True)]
        return keys_BKTH, values_BKTH


def lengths(keys_BKTH: torch.Tensor, rotated: int) -> torch.Tensor:
    """Returns the length of the pair that each channel belongs to; a channel that is not rotated is alone.

    The first `rotated` channels of a head are; the two of a pair are half of them apart.
    """
    turned, still = keys_BKTH.tensor_split([rotated], -1)
    pairs = turned.unflatten(-1, (2, -1)).norm(dim=-2)
    return torch.cat([pairs, pairs, still.abs()], -1)


def _scales(peaks_KH: torch.Tensor) -> torch.Tensor:
    """Returns the scales by which no value up to its peak is cut."""
    least = _FLOOR * peaks_KH.amax(-1, keepdim=True)
    return torch.maximum(peaks_KH, least.where(least > 0, torch.ones(()))).float() / HIGHEST
