"""Levels of width and bits together: what a search chooses from where weights may be rounded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from lathe.artefact.plan import (
    BLOCK_KINDS,
    AttentionLevel,
    FFNLevel,
    Heads,
    LayerShape,
    Plan,
    RoundedHeads,
    RoundedWidth,
    Width,
)
from lathe.compressor.search.space import Choice, Space

HEAD_BITS = (0, 8, 4)
"""What embedding and head may have."""


@dataclass(frozen=True)
class MixedSpace:
    """The levels of a space of widths, each with the checkpoint's values and rounded to some bits.

    Levels are ordered by width, then by bits, the widest and the most first; the dropped block is the last.

    Attributes:
        widths: The widths.
        bits: Those that a block's weights may be rounded to, the most first.
        head: Bits of embedding and head, 0 (the checkpoint's values) first. They count as a last block.
    """

    widths: Space
    bits: tuple[int, ...]
    head: tuple[int, ...] = HEAD_BITS

    @property
    def layers(self) -> int:
        """Returns the number of layers."""
        return self.widths.layers

    @property
    def blocks(self) -> Iterator[tuple[int, Choice]]:
        """Yields (layer, "attention" | "ffn") in the order in which the model runs them; the head last."""
        yield from self.widths.blocks
        yield self.layers, "head"

    def levels(self, kind: Choice) -> tuple[Any, ...]:
        """Returns the levels of a block kind; bits of the head."""
        if kind == "head":
            return self.head
        if kind == "attention":
            return tuple(level for heads in self.widths.attention for level in self._of_heads(heads))
        return tuple(level for width in self.widths.ffn for level in self._of_width(width))

    def _of_heads(self, heads: Heads) -> list[AttentionLevel]:
        return [heads, *(RoundedHeads(heads, bits) for bits in self.bits if heads[1])]

    def _of_width(self, width: Width) -> list[FFNLevel]:
        return [width, *(RoundedWidth(width, bits) for bits in self.bits if width)]

    def at(self, level: int) -> tuple[int, int]:
        """Returns the level of `widths` that a level of a block has, and its bits."""
        width, choice = divmod(level, 1 + len(self.bits))
        return width, (0, *self.bits)[choice]

    @property
    def smallest(self) -> Plan:
        """Returns the smallest plan: one narrow attention block alone, with the fewest bits."""
        first, *empty = self.widths.smallest
        return Plan((replace(first, attention_bits=(0, *self.bits)[-1]), *empty), self.head[-1])

    def plan(self, indices: Iterable[int]) -> Plan:
        """Returns the plan with these level indices, one per block and one for the head."""
        *flat, head = indices
        layers = []
        for attention, ffn in zip(flat[::2], flat[1::2], strict=True):
            (heads, attention_bits), (width, ffn_bits) = self.at(attention), self.at(ffn)
            shape = LayerShape.of(self.widths.attention[heads], self.widths.ffn[width])
            layers.append(replace(shape, attention_bits=attention_bits, ffn_bits=ffn_bits))
        return Plan(tuple(layers), self.head[head])

    def indices(self, plan: Plan) -> list[int]:
        """Returns one level index per block and one for the head; the inverse of `plan`."""
        choices, flat = (0, *self.bits), []
        widths = iter(self.widths.indices(plan.unrounded))
        for layer in plan:
            for kind in BLOCK_KINDS:
                flat.append(next(widths) * len(choices) + choices.index(layer.bits(kind)))
        return [*flat, self.head.index(plan.head_bits)]
