"""Ways to binarize a block of columns, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from lathe.artefact.registry import Registry
from lathe.compressor.reconstruction.one_bit.storage import Storage


class BlockCode(Protocol):
    """A binarized block: what it takes, and what becomes of its columns."""

    @property
    def storage(self) -> Storage:
        """What is stored."""

    def settle(self, at: int, column_R: torch.Tensor, /) -> torch.Tensor:
        """Returns what a column becomes, [R]; at: its place in the block."""


Binarization = Callable[[torch.Tensor, torch.Tensor], BlockCode]
"""(weights of a block of columns [R, K], the diagonal of their `inverse_factor` [K]) -> its code."""

binarizations: Registry[Binarization] = Registry("binarization", "lathe.compressor.reconstruction.one_bit")
"""Every binarization by name."""
