"""Model families, one declaration each, found by `config.model_type`."""

from compressor.families.base import Family, Place, exported, families, resolve

__all__ = ["Family", "Place", "exported", "families", "resolve"]
