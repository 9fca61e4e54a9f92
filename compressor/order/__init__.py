"""Importance orders, one registered file each."""

import importlib
import pkgutil

from compressor.order.base import Order, get, known

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["Order", "get", "known"]
