"""Importance methods, one registered file each."""

from lathe.compressor.importance.base import ImportanceMethod, importance_methods

__all__ = ["ImportanceMethod", "importance_methods"]
