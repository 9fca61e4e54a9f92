"""The registry of orders."""

from __future__ import annotations

from collections.abc import Callable

from compressor.families import Family
from compressor.forward import Weights
from compressor.plan import ModelShape
from compressor.registry import Registry
from compressor.statistics import LayerStatistics
from compressor.surgery import LayerOrder

Order = Callable[[Family, ModelShape, Weights, LayerStatistics], LayerOrder]
"""Ranks one layer's groups, heads and channels, from its dense weights by their names relative to it."""

orders: Registry[Order] = Registry("order", "compressor.order")
"""Every order by name; a search method says which one it wants."""
