"""Importance methods, one registered file each."""

from lathe.compressor.importance.base import (
    ImportanceMethod,
    importance_methods,
    needs_block_inputs,
    reads_block_inputs,
)

__all__ = ["ImportanceMethod", "importance_methods", "needs_block_inputs", "reads_block_inputs"]
