"""Model families, one declaration each, found by `config.model_type`."""

from lathe.compressor.model.families.base import Family, exported, families, resolve
from lathe.compressor.model.families.tensor_locations import TensorLocation, locate_tensors, stored_name

__all__ = ["Family", "TensorLocation", "exported", "families", "locate_tensors", "resolve", "stored_name"]
