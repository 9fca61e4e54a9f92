"""The values that binarized weights may have.

Shapes: R rows (outputs), K columns of a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lathe.compressor.reconstruction.one_bit.storage import Storage


@dataclass(frozen=True)
class Levels:
    """Every weight is its centre, plus or minus a first and, where that is not 0, a second magnitude.

    Attributes:
        centre: [R, K]
        first: [R, K]
        second: [R, K]
        storage: What signs, masks, scales and means take.
    """

    centre: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor
    storage: Storage

    def settle(self, at: int, column_R: torch.Tensor) -> torch.Tensor:
        """Returns what is nearest to a column, [R]; at: its place in the block."""
        magnitudes = self.first[:, at], self.second[:, at]
        return nearest(column_R, self.centre[:, at], *magnitudes)


def nearest(
    values: torch.Tensor, centre: torch.Tensor, first: torch.Tensor, second: torch.Tensor
) -> torch.Tensor:
    """Returns what is nearest to values of centre +- first +- second; magnitudes are not negative."""
    large, small = torch.maximum(first, second), torch.minimum(first, second)
    left = values - centre
    towards = sign(left) * large
    return centre + towards + sign(left - towards) * small


def sign(values: torch.Tensor) -> torch.Tensor:
    """Returns 1 or -1; 1 for 0, for which there is no third sign."""
    return torch.where(values >= 0, 1.0, -1.0)


def in_16_bits(scales: torch.Tensor) -> torch.Tensor:
    """Returns scales or means as they are stored, float32 of bfloat16's digits."""
    return scales.bfloat16().float()
