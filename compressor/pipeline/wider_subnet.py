"""What a narrower subnet of a family takes over from the next wider one.

All subnets keep the first units of one ranking, so that a narrower one's rows of the matrices that read a
block's input are some of the wider one's. Output projections compensate for what is pruned, and so are each
subnet's own; where a block is as wide as in the wider one, and another projection would gain next to nothing,
that is taken over, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TypeVar

import torch

from lathe.artefact.plan import BLOCK_KINDS, BlockKind
from lathe.compressor.model.output_projection import output
from lathe.compressor.model.pruning import Selection, input_rows, within
from lathe.compressor.model.rounding import QuantizedMatrix

Part = TypeVar("Part", torch.Tensor, torch.Tensor | QuantizedMatrix)
Finished = Callable[[int], Mapping[str, torch.Tensor]]
"""Gives a finished layer by its index."""
Names = Callable[[int], Set[str]]
"""Names matrices of a layer by its index."""


@dataclass(frozen=True)
class WiderSubnet:
    """The next wider subnet of a family, by what is in the run directory.

    Attributes:
        selections: What it keeps, layer by layer.
        finished: The name of its finished layers.
        rounded: The name of the rounded ones, where there are some.
    """

    selections: Sequence[Selection]
    finished: str
    rounded: str | None

    def matrices(
        self,
        layer: Callable[[int], Mapping[str, Part]],
        kept: Sequence[Selection],
        head_dim: int,
        outputs: Names,
    ) -> Callable[[int], dict[str, Part]]:
        """Returns what gives matrices of a narrower subnet's layer, by name, biases with them.

        These are the matrices that read the blocks' inputs, and some output projections.

        Args:
            layer: Gives a layer of this subnet.
            kept: What the narrower subnet keeps.
            head_dim: Of the model.
            outputs: Names the output projections.
        """

        def matrices(index: int) -> dict[str, Part]:
            rows, names = input_rows(within(self.selections[index], kept[index]), head_dim), outputs(index)
            found = {}
            for name, value in layer(index).items():
                own = rows.get(name.rpartition(".")[0])
                if own is not None and len(own):
                    found[name] = value[own]
                elif name in names:
                    found[name] = value
            return found

        return matrices

    def equal_outputs(self, kept: Sequence[Selection]) -> Names:
        """Returns what names the output projections of blocks that are as wide here as in another subnet."""

        def names(index: int) -> set[str]:
            own, other = self.selections[index], kept[index]
            return output_names([kind for kind in BLOCK_KINDS if _equal(kind, own, other)])

        return names


def output_names(kinds: Sequence[BlockKind] = BLOCK_KINDS) -> set[str]:
    """Returns the names of the output projections and their biases in these blocks of a layer."""
    return {f"{output(kind)}.{part}" for kind in kinds for part in ("weight", "bias")}


def taken_over(layer: Finished, wider: Finished) -> Names:
    """Returns what names the output projections of a layer that are those of the wider subnet."""

    def names(index: int) -> set[str]:
        own, other = layer(index), wider(index)
        both = output_names() & own.keys() & other.keys()
        return {name for name in both if torch.equal(own[name], other[name])}

    return names


def _equal(kind: BlockKind, one: Selection, other: Selection) -> bool:
    """Tells whether two selections keep the same units of a block."""
    if kind == "ffn":
        return torch.equal(one.channels, other.channels)
    return torch.equal(one.query_heads, other.query_heads) and torch.equal(one.kv_heads, other.kv_heads)
