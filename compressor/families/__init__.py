"""Model families, one declaration each, found by `config.model_type`."""

from compressor.families.base import Family, families, resolve

__all__ = ["Family", "families", "resolve"]
