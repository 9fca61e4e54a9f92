"""The KV cache of a graph: float32, or int8 with a scale for every channel of every KV head.

GroupQueryAttention keeps what its cache inputs are. With int8 it rounds the keys, after their rotation, and
the values of a call before it attends, so that a prompt in one piece, in several, and token by token give
the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from onnx import TensorProto

from lathe.compressor.export.onnx.writer import GraphWriter
from lathe.compressor.model.cache_rounding import CacheScales

LayerScales = Callable[[int], CacheScales]
"""Gives the scales of a layer with attention."""


class CacheFormat(Protocol):
    """What a graph keeps of keys and values.

    Attributes:
        kind: ONNX's type of a value.
        attributes: of attention.
    """

    kind: int
    attributes: dict[str, Any]

    def make_scales(self, index: int, order: torch.Tensor | None) -> list[str]:
        """Adds the scales of a layer's keys and values; returns their names, none without scales.

        `order` [H] is that of the values in a head of keys; None leaves them as they are.
        """


class FloatCache:
    """Keeps values as they are."""

    kind: int = TensorProto.FLOAT

    def __init__(self) -> None:
        self.attributes: dict[str, Any] = {}

    def make_scales(self, _index: int, _order: torch.Tensor | None) -> list[str]:
        return []


class Int8Cache:
    """Rounds values to 8 bits."""

    kind: int = TensorProto.INT8

    def __init__(self, writer: GraphWriter, scales: LayerScales) -> None:
        self._writer, self._scales = writer, scales
        self.attributes: dict[str, Any] = {
            "k_quant_type": "PER_CHANNEL",
            "v_quant_type": "PER_CHANNEL",
            "kv_cache_bit_width": 8,
        }

    def make_scales(self, index: int, order: torch.Tensor | None) -> list[str]:
        found = self._scales(index)
        keys = found.keys if order is None else found.keys[:, order]
        parts = {"key": keys, "value": found.values}
        return [self._writer.constant(f"{index}.{part}_scale", value) for part, value in parts.items()]


def cache_format(writer: GraphWriter, scales: LayerScales | None) -> CacheFormat:
    """Returns the format of a graph's cache, which is float32 without scales."""
    return FloatCache() if scales is None else Int8Cache(writer, scales)
