"""What width methods remove: whole KV groups with their query heads, and FFN channels.

Shapes: K KV groups, F FFN channels, N*H inputs of o_proj.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from lathe.artefact.plan import LayerShape, ModelShape
from lathe.compressor.model.pruning import Selection
from lathe.compressor.search.removal.saliency import owned_by_channels, owned_by_heads


@dataclass(frozen=True)
class UnitScores:
    """A score per unit of one layer, larger is better. groups: [K]. channels: [F]."""

    groups: torch.Tensor
    channels: torch.Tensor


def by_group(shape: ModelShape, values: torch.Tensor) -> torch.Tensor:
    """Sums of values that belong to heads, query or KV, over KV groups: [heads * H] -> [K]."""
    return values.view(shape.layer.kv_heads, -1).sum(1)


def owned(shape: ModelShape, values: Mapping[str, torch.Tensor]) -> UnitScores:
    """Sums of a value per weight over all weights that a unit owns.

    A KV group owns its rows of q, k, v and its columns of o, an FFN channel its rows of gate and up and its
    column of down.

    Args:
        shape: of the dense model.
        values: as a layer's weights; biases and norms are not read.
    """
    return UnitScores(owned_by_groups(values, shape.layer.kv_heads), owned_by_channels(values))


def owned_by_groups(values: Mapping[str, torch.Tensor], groups: int) -> torch.Tensor:
    """[groups]: the attention's part of `owned`, for as many KV groups as the weights have."""
    by_query, by_group = owned_by_heads(values, groups, groups)
    return by_query + by_group


def best(shape: ModelShape, scores: UnitScores, widths: LayerShape) -> Selection:
    """The units with the highest scores for widths of whole KV groups; of equals the first."""
    return selection(shape, _top(scores.groups, widths.kv_heads), _top(scores.channels, widths.ffn))


def selection(shape: ModelShape, groups: torch.Tensor, channels: torch.Tensor) -> Selection:
    """Whole KV groups [k] and channels [f], as dense indices in ascending order."""
    per_group = shape.layer.heads_per_group
    heads = groups[:, None] * per_group + torch.arange(per_group)
    return Selection(groups, heads.reshape(-1), channels)


def _top(scores: torch.Tensor, count: int) -> torch.Tensor:
    return scores.argsort(descending=True, stable=True)[:count].sort().values
