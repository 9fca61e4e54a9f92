"""Cutting: which heads and channels stay, and the weights that are left of a layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import torch

from lathe.artefact.plan import LayerShape, ModelShape
from lathe.compressor.model.names import (
    ATTENTION_NORM,
    ATTENTION_OUTPUT_NORM,
    DOWN_PROJ,
    FFN_NORM,
    FFN_OUTPUT_NORM,
    GATE_PROJ,
    K_NORM,
    K_PROJ,
    O_PROJ,
    Q_NORM,
    Q_PROJ,
    ROUTER,
    SHARE_PROJ,
    SINKS,
    UP_PROJ,
    V_PROJ,
)

_NONE = torch.empty(0, dtype=torch.long)


@dataclass(frozen=True)
class ImportanceRanking:
    """Nested rankings of one layer, most valuable first: the subnet of width w is the first w.

    Args:
        groups: [K] KV heads.
        heads: [K, N/K] query heads (dense indices) of every KV head, row k for KV head k.
        channels: [F]; of experts [E, F], row e the channels of expert e, numbered through.
        experts: [E]; none where an FFN is one.
    """

    groups: torch.Tensor
    heads: torch.Tensor
    channels: torch.Tensor
    experts: torch.Tensor = field(default_factory=lambda: _NONE)

    def tensors(self) -> dict[str, torch.Tensor]:
        """By field."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class Selection:
    """What stays of one layer, as dense indices in ascending order, query heads grouped by KV head, channels
    by expert where there are any.
    """

    kv_heads: torch.Tensor
    query_heads: torch.Tensor
    channels: torch.Tensor
    experts: torch.Tensor = field(default_factory=lambda: _NONE)

    @property
    def shape(self) -> LayerShape:
        """The widths that are left."""
        experts = len(self.experts)
        return LayerShape(
            len(self.query_heads), len(self.kv_heads), len(self.channels) // max(experts, 1), experts
        )


def select(order: ImportanceRanking, shape: LayerShape) -> Selection:
    """The part of a layer that its order names for these widths."""
    kv_heads = order.groups[: shape.kv_heads].sort().values
    heads = order.heads[kv_heads, : shape.heads_per_group].sort(dim=1).values.reshape(-1)
    if not len(order.experts) or not shape.ffn:
        return Selection(kv_heads, heads, order.channels[..., : shape.ffn].sort().values.flatten())
    experts = order.experts[: shape.experts or None].sort().values
    return Selection(kv_heads, heads, order.channels[experts, : shape.ffn].sort().values.flatten(), experts)


def rows(heads: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Row indices of heads in a stacked projection: [n] heads -> [n * head_dim] rows."""
    return (heads[:, None] * head_dim + torch.arange(head_dim)).reshape(-1)


def prune_attention(
    shape: ModelShape, weights: Mapping[str, torch.Tensor], selection: Selection
) -> dict[str, torch.Tensor]:
    """The attention block's tensors for a selection; empty when no head is left."""
    if not len(selection.kv_heads):
        return {}
    q, kv = rows(selection.query_heads, shape.head_dim), rows(selection.kv_heads, shape.head_dim)
    cut = _whole(weights, ATTENTION_NORM) | _whole(weights, ATTENTION_OUTPUT_NORM)
    _take_rows(cut, weights, {Q_PROJ: q, K_PROJ: kv, V_PROJ: kv})
    _take_columns(cut, weights, O_PROJ, q)
    if SINKS in weights:
        cut[SINKS] = weights[SINKS][selection.query_heads].contiguous()
    if shape.qk_norm_whole:
        _take_rows(cut, weights, {Q_NORM: q, K_NORM: kv})
        return cut
    return cut | _whole(weights, Q_NORM) | _whole(weights, K_NORM)


def prune_ffn(weights: Mapping[str, torch.Tensor], selection: Selection) -> dict[str, torch.Tensor]:
    """The FFN block's tensors for a selection; empty when no channel is left."""
    if not len(selection.channels):
        return {}
    cut = _whole(weights, FFN_NORM) | _whole(weights, FFN_OUTPUT_NORM)
    own = {GATE_PROJ: selection.channels, UP_PROJ: selection.channels, ROUTER: selection.experts}
    _take_rows(cut, weights, own)
    _take_columns(cut, weights, DOWN_PROJ, selection.channels)
    if f"{SHARE_PROJ}.weight" in weights:
        _take_columns(cut, weights, SHARE_PROJ, selection.experts)
    return cut


def _whole(weights: Mapping[str, torch.Tensor], module: str) -> dict[str, torch.Tensor]:
    names = (f"{module}.weight", f"{module}.bias")
    return {name: weights[name] for name in names if name in weights}


def _take_rows(
    cut: dict[str, torch.Tensor], weights: Mapping[str, torch.Tensor], kept: Mapping[str, torch.Tensor]
) -> None:
    for name, indices in kept.items():
        for kind in ("weight", "bias"):
            if f"{name}.{kind}" in weights:
                cut[f"{name}.{kind}"] = weights[f"{name}.{kind}"][indices].contiguous()


def _take_columns(
    cut: dict[str, torch.Tensor], weights: Mapping[str, torch.Tensor], name: str, columns: torch.Tensor
) -> None:
    cut[f"{name}.weight"] = weights[f"{name}.weight"][:, columns].contiguous()
    if f"{name}.bias" in weights:
        cut[f"{name}.bias"] = weights[f"{name}.bias"]
