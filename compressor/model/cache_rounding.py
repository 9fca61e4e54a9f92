"""Keys and values as an int8 KV cache holds them.

Every channel of every KV head has a scale, for keys (after their rotation) and for values. A code is
round(x / scale), half to even, cut to [-128, 127]: what ONNX Runtime's GroupQueryAttention stores, and all
that its attention reads, of the newest tokens, too.

Shapes: B windows, K KV heads, T tokens, H head dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

LOWEST, HIGHEST = -128, 127
Both = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class CacheScales:
    """The scales of one layer's keys and values, float32 [K, H]."""

    keys: torch.Tensor
    values: torch.Tensor


class LayerCache(Protocol):
    """The KV cache of one layer, as its attention calls it."""

    def update(self, keys_BKTH: torch.Tensor, values_BKTH: torch.Tensor, *args: Any, **kwargs: Any) -> Both:
        """Takes the keys and values of new tokens; returns those that attention reads."""


class StoredKeysValues:
    """The cache of one layer that a runtime filled from one prompt: gives that back, whatever it is given.

    Rounding is not continuous: where a value lies between two codes, runtimes may choose either, and over
    many layers that moves logits about as far as rounding itself. Attention that reads the same codes differs
    no more than that of float32.

    Attributes:
        distance: how far codes are from what was given, in codes: at most a half where they were rounded so.
    """

    def __init__(self, scales: CacheScales, codes_KTH: Both) -> None:
        self._scales, self._codes = scales, codes_KTH
        self.distance = 0.0

    def update(self, keys_BKTH: torch.Tensor, values_BKTH: torch.Tensor, *_args: Any, **_kwargs: Any) -> Both:
        """Returns the values of the codes of all tokens."""
        keys, values = self._codes
        return self._read(keys_BKTH, keys, self._scales.keys), self._read(
            values_BKTH, values, self._scales.values
        )

    def _read(
        self, states_BKTH: torch.Tensor, codes_KTH: torch.Tensor, scales_KH: torch.Tensor
    ) -> torch.Tensor:
        exact = (states_BKTH / scales_KH[:, None]).clamp(LOWEST, HIGHEST)
        self.distance = max(self.distance, float((exact - codes_KTH).abs().max()))
        return (codes_KTH * scales_KH[:, None])[None]


def whole_cache(layers: Sequence[LayerCache]) -> dict[str, Any]:
    """Returns the caches of layers with attention as the keyword argument of a causal LM of transformers."""
    from transformers import DynamicCache

    from lathe.artefact.modeling.modeling_lathe_llama import CACHE

    class LayeredCache(DynamicCache):
        def update(
            self,
            key_states: torch.Tensor,
            value_states: torch.Tensor,
            layer_idx: int,
            *args: Any,
            **kwargs: Any,
        ) -> Both:
            both = layers[layer_idx].update(key_states, value_states)
            return super().update(*both, layer_idx, *args, **kwargs)

    return {CACHE: LayeredCache()}
