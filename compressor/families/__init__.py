"""Model families, one declaration each, found by `config.model_type`."""

from compressor.families.base import Family, exported, families, resolve
from compressor.families.places import Place, places, stored_name

__all__ = ["Family", "Place", "exported", "families", "places", "resolve", "stored_name"]
