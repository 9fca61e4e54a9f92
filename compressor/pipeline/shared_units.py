"""What the subnets of domains have in common: the heads and channels that all of them keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lathe.artefact.plan import ModelShape
from lathe.compressor.model.pruning import Selection


def shared_units(shape: ModelShape, subnets: Mapping[str, Sequence[Selection]]) -> dict[str, Any]:
    """Returns how many query heads and FFN channels there are, all subnets keep, any keeps, and each keeps.

    Args:
        shape: The dense model's.
        subnets: What each keeps, layer by layer.
    """
    dense, layers = shape.layer, shape.num_layers
    return {
        "query_heads": _count(
            dense.query_heads, layers, {n: [s.query_heads for s in kept] for n, kept in subnets.items()}
        ),
        "channels": _count(
            shape.ffn_channels(dense), layers, {n: [s.channels for s in kept] for n, kept in subnets.items()}
        ),
    }


def _count(width: int, layers: int, kept: Mapping[str, Sequence[torch.Tensor]]) -> dict[str, Any]:
    masks = {name: torch.stack([_mask(width, units) for units in found]) for name, found in kept.items()}
    stacked = torch.stack([*masks.values()])
    return {
        "dense": width * layers,
        "core": int(stacked.all(0).sum()),
        "any": int(stacked.any(0).sum()),
        "kept": {name: int(mask.sum()) for name, mask in masks.items()},
    }


def _mask(width: int, units: torch.Tensor) -> torch.Tensor:
    """Returns which of the dense units are kept, [width] bool."""
    return torch.zeros(width, dtype=torch.bool).index_fill(0, units.long(), True)
