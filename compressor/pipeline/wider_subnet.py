"""What the narrower subnets of a family take over from the widest: the matrices that blocks' inputs go into.

All subnets keep the first units of one ranking, so that a narrower one's rows of these matrices are some of
the widest one's. Only output projections, which compensate for what is pruned, are each subnet's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from lathe.compressor.model.pruning import Selection, input_rows, within
from lathe.compressor.model.rounding import QuantizedMatrix

Part = TypeVar("Part", torch.Tensor, torch.Tensor | QuantizedMatrix)


@dataclass(frozen=True)
class WidestSubnet:
    """The widest subnet of a family, by what is in the run directory.

    Attributes:
        selections: What it keeps, layer by layer.
        finished: The name of its finished layers.
        rounded: The name of the rounded ones, where there are some.
    """

    selections: Sequence[Selection]
    finished: str
    rounded: str | None

    def inputs(
        self, layer: Callable[[int], Mapping[str, Part]], kept: Sequence[Selection], head_dim: int
    ) -> Callable[[int], dict[str, Part]]:
        """Returns what gives the input matrices of a narrower subnet's layer, by name, biases with them.

        Args:
            layer: Gives a layer of this subnet.
            kept: What the narrower subnet keeps.
            head_dim: Of the model.
        """

        def inputs(index: int) -> dict[str, Part]:
            rows = input_rows(within(self.selections[index], kept[index]), head_dim)
            found = {}
            for name, value in layer(index).items():
                own = rows.get(name.rpartition(".")[0])
                if own is not None and len(own):
                    found[name] = value[own]
            return found

        return inputs
