"""Importance orders, one registered file each."""

from lathe.compressor.importance.base import Order, orders

__all__ = ["Order", "orders"]
