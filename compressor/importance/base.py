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

_READS_BLOCK_INPUTS = "reads_block_inputs"


def reads_block_inputs(method: ImportanceMethod) -> ImportanceMethod:
    """Marks a method that reads the statistics `attention_input` and `ffn_input`; others get them empty."""
    setattr(method, _READS_BLOCK_INPUTS, True)
    return method


def needs_block_inputs(name: str) -> bool:
    """Tells whether the importance method of this name reads the moments of what the blocks read."""
    return bool(getattr(importance_methods.get(name), _READS_BLOCK_INPUTS, False))
