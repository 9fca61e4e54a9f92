"""The widths that a block may take, and their costs under each constraint."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from lathe.artefact.plan import (
    BLOCK_KINDS,
    AttentionLevel,
    BlockKind,
    FFNLevel,
    Heads,
    LayerShape,
    ModelShape,
    Plan,
    Width,
)
from lathe.artefact.width_rules import FREE, WidthRules

FFN_LEVELS = 32
"""The most widths of an FFN that are searched."""
_MAX_GROUP_LEVELS = 8
_EXPERT_LEVELS, _EXPERT_COUNTS = 8, 5
Level = Heads | Width
Choice = BlockKind | Literal["head"]
"""What has levels: a layer's blocks, and, where they may be rounded, embedding and head together."""
WHOLE = (0,)
"""The bits of embedding and head where they keep the checkpoint's values."""


class Coordinates(Protocol):
    """Plans as one level index per block, the widest level's first."""

    @property
    def blocks(self) -> Iterator[tuple[int, Choice]]:
        """Yields (layer, kind) of everything that has levels to choose from."""

    def plan(self, indices: Iterable[int]) -> Plan:
        """Returns the plan with these level indices, one per block."""

    def indices(self, plan: Plan) -> list[int]:
        """Returns one level index per block; the inverse of `plan`."""


class Choices(Coordinates, Protocol):
    """The levels of each block, and the plans that are made of them."""

    @property
    def smallest(self) -> Plan:
        """Returns the smallest plan."""

    def levels(self, kind: Choice) -> tuple[Any, ...]:
        """Returns the levels of a block kind, the dense one's first, the smallest last; bits of the head."""


@dataclass(frozen=True)
class Space:
    """Levels of a layer's two blocks, widest first, the dropped block last.

    Attributes:
        attention: (query heads, KV heads).
        ffn: Channels, or (experts, channels of each).
        layers: The number of layers.
    """

    attention: tuple[Heads, ...]
    ffn: tuple[Width, ...]
    layers: int

    @property
    def blocks(self) -> Iterator[tuple[int, BlockKind]]:
        """Yields (layer, "attention" | "ffn") in the order in which the model runs them."""
        return ((layer, kind) for layer in range(self.layers) for kind in BLOCK_KINDS)

    @property
    def widths(self) -> tuple[int, ...]:
        """Returns the FFN levels of a model without experts."""
        return tuple(width for width in self.ffn if isinstance(width, int))

    def levels(self, kind: Choice) -> tuple[Any, ...]:
        """Returns the levels of a block kind, widest first."""
        if kind == "head":
            return WHOLE
        return self.attention if kind == "attention" else self.ffn

    @property
    def smallest(self) -> Plan:
        """Returns the smallest plan: one narrow attention block alone, which carries positions."""
        empty = LayerShape(0, 0, 0)
        query, kv = min(h for h in self.attention if h[0])
        return Plan((LayerShape(query, kv, 0), *[empty] * (self.layers - 1)))

    def plan(self, indices: Iterable[int]) -> Plan:
        """Returns the plan with these level indices, one per block."""
        flat = list(indices)
        pairs = zip(flat[::2], flat[1::2], strict=True)
        return Plan(tuple(LayerShape.of(self.attention[a], self.ffn[f]) for a, f in pairs))

    def indices(self, plan: Plan) -> list[int]:
        """Returns one level index per block; the inverse of `plan`."""
        flat = []
        for layer in plan:
            flat += [self.attention.index((layer.query_heads, layer.kv_heads)), self.ffn.index(layer.width)]
        return flat


def make_space(shape: ModelShape, rules: WidthRules = FREE, ffn_levels: int = FFN_LEVELS) -> Space:
    """Returns the levels of a model.

    Attention blocks have whole KV groups with the same number of query heads in each. FFN widths come in
    steps of a power of two on each device, at most `ffn_levels` of them, so that wide models are pruned in
    whole tiles of any engine; the widths of fewer levels are among those of more. FFNs of experts have five
    numbers of experts and about eight widths at most. Any block may be dropped.

    Raises:
        UserError: the dense model itself breaks the rules.
    """
    rules.check(shape.dense_plan, "The dense model")
    dense = shape.layer
    sizes, counts = range(dense.heads_per_group, 0, -1), range(dense.kv_heads, 0, -1)
    allowed = [[(g * h, g) for h in sizes if rules.allow_attention(g * h, g)] for g in counts]
    groups = [heads for heads in allowed if heads]
    attention = [heads for group in groups[:: math.ceil(len(groups) / _MAX_GROUP_LEVELS)] for heads in group]
    attention.sort(key=lambda heads: (-(heads[0] + heads[1]), -heads[0]))
    ffn: list[int] | list[tuple[int, int]] = _widths(shape, rules, ffn_levels)
    if shape.experts:
        pairs = itertools.product(_counts(shape), _widths(shape, rules, min(ffn_levels, _EXPERT_LEVELS)))
        ffn = sorted(pairs, key=lambda pair: (-pair[0] * pair[1], -pair[0]))
    return Space((*attention, (0, 0)), (*ffn, 0), shape.num_layers)


def _widths(shape: ModelShape, rules: WidthRules, most: int) -> list[int]:
    """Returns at most about so many FFN widths, the dense one first."""
    dense, unit = shape.layer.ffn, rules.devices * rules.channels
    stride = unit << (math.ceil(dense / (most * unit)) - 1).bit_length()
    return sorted({dense, *range(stride, dense, stride)}, reverse=True)


def _counts(shape: ModelShape) -> list[int]:
    """Returns numbers of experts, from all down to a quarter, but never fewer than a token uses."""
    least = max(shape.experts_per_token, math.ceil(shape.experts / 4))
    steps = min(_EXPERT_COUNTS, shape.experts - least + 1) - 1
    return [shape.experts - round(i * (shape.experts - least) / max(steps, 1)) for i in range(steps + 1)]


@dataclass(frozen=True)
class Constraint:
    """An additive budget: `fixed`, the head and the sum over blocks together must not exceed `limit`.

    Attributes:
        name: The name of the budget.
        unit: The unit of all costs.
        limit: The most that a model may cost.
        fixed: The cost of all that is no block.
        attention: The cost of an attention block by its level.
        ffn: The cost of an FFN block by its level.
        head: The cost of embedding and head by their bits.
    """

    name: str
    unit: str
    limit: float
    fixed: float
    attention: dict[AttentionLevel, float]
    ffn: dict[FFNLevel, float]
    head: dict[int, float] = field(default_factory=lambda: {0: 0.0})

    def costs(self, space: Choices, kind: Choice) -> list[float]:
        """Returns the cost of a block at each of its levels."""
        tables: dict[Choice, Mapping[Any, float]] = {
            "attention": self.attention,
            "ffn": self.ffn,
            "head": self.head,
        }
        return [tables[kind][level] for level in space.levels(kind)]

    def outside(self, space: Choices) -> float:
        """Returns the cost of what is no block of a space."""
        chosen = any(kind == "head" for _, kind in space.blocks)
        return self.fixed + (0.0 if chosen else self.head[0])

    def cost(self, plan: Plan) -> float:
        """Returns the cost of a whole model."""
        return (
            self.fixed
            + self.head[plan.head_bits]
            + sum(self.attention[layer.attention_level] + self.ffn[layer.ffn_level] for layer in plan)
        )

    def allows(self, plan: Plan) -> bool:
        """Tells whether a plan is within the limit."""
        return self.cost(plan) <= self.limit * (1 + 1e-9)


def parameter_constraint(space: Choices, shape: ModelShape, keep: float) -> Constraint:
    """Limits a plan to the share `keep` of the decoder's parameters."""
    return _per_block(
        space,
        "parameters",
        "parameters",
        keep * shape.decoder_parameters(shape.dense_plan),
        0.0,
        shape.attention_parameters,
        shape.ffn_parameters,
        dict.fromkeys(space.levels("head"), 0.0),
    )


def memory_constraint(
    space: Choices,
    shape: ModelShape,
    limit: float,
    *,
    weight_bytes: Mapping[int, float],
    kv_bytes: float,
    tokens: int,
    fixed: Mapping[int, float] | None = None,
) -> Constraint:
    """Limits the bytes of weights plus KV cache.

    Args:
        space: The levels of blocks.
        shape: The dense model's dimensions.
        limit: Bytes.
        weight_bytes: Bytes per weight in a layer, by the bits that it is rounded to (0: it is not).
        kv_bytes: Bytes per value in the KV cache.
        tokens: Tokens in the KV cache: batch size times context.
        fixed: Bytes of the weights outside of layers, by the bits of embedding and head; None counts
            `weight_bytes` for each of them.
    """
    head = fixed or {bits: shape.parameters(()) * weight_bytes[bits] for bits in space.levels("head")}
    return _per_block(
        space,
        "memory",
        "bytes",
        limit,
        0.0,
        lambda layer: (
            weight_bytes[layer.attention_bits] * shape.attention_parameters(layer)
            + tokens * kv_bytes * shape.kv_bytes_per_token((layer,), 1)
        ),
        lambda layer: weight_bytes[layer.ffn_bits] * shape.ffn_parameters(layer),
        dict(head),
    )


def _per_block(
    space: Choices,
    name: str,
    unit: str,
    limit: float,
    fixed: float,
    attention: Callable[[LayerShape], float],
    ffn: Callable[[LayerShape], float],
    head: dict[int, float],
) -> Constraint:
    return Constraint(
        name,
        unit,
        limit,
        fixed,
        {level: float(attention(LayerShape.of(level, 0))) for level in space.levels("attention")},
        {level: float(ffn(LayerShape.of((0, 0), level))) for level in space.levels("ffn")},
        head,
    )
