"""Model families, one declaration each, found by `config.model_type`."""

import importlib
import pkgutil

from compressor.families.base import Family, known, resolve

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["Family", "known", "resolve"]
