"""Pruning: the heads and channels to keep, and the weights of a layer that remain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace

import torch

from lathe.artefact.plan import LayerShape, ModelShape, Plan
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

    Attributes:
        groups: [K] KV heads.
        heads: [K, N/K] query heads (dense indices) of every KV head, row k for KV head k.
        channels: [F]; of experts [E, F], row e for the channels of expert e, numbered through.
        experts: [E]; empty without experts.
    """

    groups: torch.Tensor
    heads: torch.Tensor
    channels: torch.Tensor
    experts: torch.Tensor = field(default_factory=lambda: _NONE)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Returns all tensors by field name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class Selection:
    """The kept heads and channels of one layer, as dense indices, ascending or as they are ranked.

    Query heads are grouped by KV head, and channels by expert where there are any.
    """

    kv_heads: torch.Tensor
    query_heads: torch.Tensor
    channels: torch.Tensor
    experts: torch.Tensor = field(default_factory=lambda: _NONE)

    @property
    def shape(self) -> LayerShape:
        """Returns the widths of the selection."""
        experts = len(self.experts)
        return LayerShape(
            len(self.query_heads), len(self.kv_heads), len(self.channels) // max(experts, 1), experts
        )


def select(ranking: ImportanceRanking, shape: LayerShape) -> Selection:
    """Returns the most valuable heads and channels for these widths."""
    kv_heads = ranking.groups[: shape.kv_heads].sort().values
    heads = ranking.heads[kv_heads, : shape.heads_per_group].sort(dim=1).values.reshape(-1)
    if not len(ranking.experts) or not shape.ffn:
        return Selection(kv_heads, heads, ranking.channels[..., : shape.ffn].sort().values.flatten())
    experts = ranking.experts[: shape.experts or None].sort().values
    return Selection(kv_heads, heads, ranking.channels[experts, : shape.ffn].sort().values.flatten(), experts)


def select_plan(rankings: Iterable[ImportanceRanking], plan: Plan) -> list[Selection]:
    """Returns the most valuable heads and channels of every layer for the widths of a plan."""
    return [select(ranking, layer) for ranking, layer in zip(rankings, plan, strict=True)]


def select_ranked(ranking: ImportanceRanking, shape: LayerShape) -> Selection:
    """Returns what `select` keeps, most valuable first: the first units of a wider selection are a narrower.

    Query heads follow their KV heads. Experts and their channels stay in ascending order.
    """
    kv_heads = ranking.groups[: shape.kv_heads]
    heads = ranking.heads[kv_heads, : shape.heads_per_group].reshape(-1)
    if len(ranking.experts):
        return replace(select(ranking, shape), kv_heads=kv_heads, query_heads=heads)
    return Selection(kv_heads, heads, ranking.channels[: shape.ffn])


def within(wider: Selection, kept: Selection) -> Selection:
    """Returns where a wider selection has what a narrower one keeps: indices into the wider one's units."""
    names = [field.name for field in fields(Selection)]
    return Selection(**{name: _places(getattr(wider, name), getattr(kept, name)) for name in names})


def _places(wider: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    order = wider.argsort()
    return order[torch.searchsorted(wider[order], kept)]


def input_rows(kept: Selection, head_dim: int) -> dict[str, torch.Tensor]:
    """Returns the rows that a selection keeps of the matrices that read a block's input, by module."""
    kv = rows(kept.kv_heads, head_dim)
    query = rows(kept.query_heads, head_dim)
    return {Q_PROJ: query, K_PROJ: kv, V_PROJ: kv, GATE_PROJ: kept.channels, UP_PROJ: kept.channels}


def rows(heads: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Returns the row indices of heads in a stacked projection: [n] heads -> [n * head_dim] rows."""
    return (heads[:, None] * head_dim + torch.arange(head_dim)).reshape(-1)


def prune_attention(
    shape: ModelShape, weights: Mapping[str, torch.Tensor], selection: Selection
) -> dict[str, torch.Tensor]:
    """Returns the attention block's tensors for a selection; empty when no head is kept."""
    if not len(selection.kv_heads):
        return {}
    q, kv = rows(selection.query_heads, shape.head_dim), rows(selection.kv_heads, shape.head_dim)
    pruned = _whole(weights, ATTENTION_NORM) | _whole(weights, ATTENTION_OUTPUT_NORM)
    _take_rows(pruned, weights, {Q_PROJ: q, K_PROJ: kv, V_PROJ: kv})
    _take_columns(pruned, weights, O_PROJ, q)
    if SINKS in weights:
        pruned[SINKS] = weights[SINKS][selection.query_heads].contiguous()
    if shape.qk_norm_whole:
        _take_rows(pruned, weights, {Q_NORM: q, K_NORM: kv})
        return pruned
    return pruned | _whole(weights, Q_NORM) | _whole(weights, K_NORM)


def prune_ffn(weights: Mapping[str, torch.Tensor], selection: Selection) -> dict[str, torch.Tensor]:
    """Returns the FFN block's tensors for a selection; empty when no channel is kept."""
    if not len(selection.channels):
        return {}
    pruned = _whole(weights, FFN_NORM) | _whole(weights, FFN_OUTPUT_NORM)
    own = {GATE_PROJ: selection.channels, UP_PROJ: selection.channels, ROUTER: selection.experts}
    _take_rows(pruned, weights, own)
    _take_columns(pruned, weights, DOWN_PROJ, selection.channels)
    if f"{SHARE_PROJ}.weight" in weights:
        _take_columns(pruned, weights, SHARE_PROJ, selection.experts)
    return pruned


def _whole(weights: Mapping[str, torch.Tensor], module: str) -> dict[str, torch.Tensor]:
    names = (f"{module}.weight", f"{module}.bias")
    return {name: weights[name] for name in names if name in weights}


def _take_rows(
    pruned: dict[str, torch.Tensor], weights: Mapping[str, torch.Tensor], kept: Mapping[str, torch.Tensor]
) -> None:
    for name, indices in kept.items():
        for kind in ("weight", "bias"):
            if f"{name}.{kind}" in weights:
                pruned[f"{name}.{kind}"] = weights[f"{name}.{kind}"][indices].contiguous()


def _take_columns(
    pruned: dict[str, torch.Tensor], weights: Mapping[str, torch.Tensor], name: str, columns: torch.Tensor
) -> None:
    pruned[f"{name}.weight"] = weights[f"{name}.weight"][:, columns].contiguous()
    if f"{name}.bias" in weights:
        pruned[f"{name}.bias"] = weights[f"{name}.bias"]
