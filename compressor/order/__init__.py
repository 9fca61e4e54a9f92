"""Importance orders, one registered file each."""

from compressor.order.base import Order, orders

__all__ = ["Order", "orders"]
