"""The registry of importance methods."""

from __future__ import annotations

from collections.abc import Callable

from lathe.artefact.plan import ModelShape
from lathe.artefact.registry import Registry
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.pruning import ImportanceRanking
from lathe.compressor.statistics import LayerStatistics

ImportanceMethod = Callable[[ModelShape, Weights, LayerStatistics], ImportanceRanking]
"""Ranks one layer's groups, heads and channels, from its dense weights by their names relative to it."""

importance_methods: Registry[ImportanceMethod] = Registry(
    "importance method",
    "lathe.compressor.importance",
    "lathe.importance_methods",
    lambda _name, value: callable(value),
)
"""Every importance method by name; a search method names the one it uses."""
