"""The registry of orders."""

from __future__ import annotations

from collections.abc import Callable

from lathe.artefact.plan import ModelShape
from lathe.artefact.registry import Registry
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.families import Family
from lathe.compressor.model.pruning import ImportanceRanking
from lathe.compressor.statistics import LayerStatistics

Order = Callable[[Family, ModelShape, Weights, LayerStatistics], ImportanceRanking]
"""Ranks one layer's groups, heads and channels, from its dense weights by their names relative to it."""

orders: Registry[Order] = Registry(
    "order", "lathe.compressor.importance", "lathe.rankings", lambda _name, value: callable(value)
)
"""Every order by name; a search method says which one it wants."""
