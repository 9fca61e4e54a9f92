"""Magnitudes that are a row's scale times a column's, refined in turns (ARB-RC).

The weights of a mask are r c b, or the sum of two such terms, with signs b: given the signs and one of the
two scales, the other has a closed form of least squares; given the scales, every weight takes the nearest
signs (ARB-LLM: Li et al., arXiv 2410.03129, Sec. 3.4). No step raises the error.

Shapes: R rows, K columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lathe.compressor.reconstruction.one_bit.levels import in_16_bits, sign

_ROUNDS = 15


@dataclass
class Scales:
    """The scales of one term.

    Attributes:
        rows: [R]
        columns: [K]
    """

    rows: torch.Tensor
    columns: torch.Tensor

    @classmethod
    def of_rows(cls, sizes_RK: torch.Tensor, mask_RK: torch.Tensor) -> Scales:
        """Returns the mean magnitude of every row, with columns alike."""
        counts = mask_RK.sum(1).clamp_min(1)
        return cls((sizes_RK * mask_RK).sum(1) / counts, torch.ones_like(sizes_RK[0]))

    def refine(self, signed_RK: torch.Tensor, mask_RK: torch.Tensor) -> None:
        """Sets rows, then columns, to their optimum; none is negative.

        Args:
            signed_RK: What the term is to be near, times its signs.
            mask_RK: What counts.
        """
        masked = signed_RK * mask_RK
        self.rows = _ratio(masked @ self.columns, mask_RK @ self.columns.square())
        self.columns = _ratio(self.rows @ masked, self.rows.square() @ mask_RK)

    @property
    def magnitudes(self) -> torch.Tensor:
        """The products, [R, K]."""
        return self.rows[:, None] * self.columns

    @property
    def stored(self) -> torch.Tensor:
        """The products of the scales as they are stored, [R, K]."""
        return in_16_bits(self.rows)[:, None] * in_16_bits(self.columns)


def refine_once(values_RK: torch.Tensor, mask_RK: torch.Tensor) -> torch.Tensor:
    """Returns the magnitudes of one term, [R, K]; its signs are those of the values."""
    sizes = values_RK.abs()
    scales = Scales.of_rows(sizes, mask_RK)
    for _ in range(_ROUNDS):
        scales.refine(sizes, mask_RK)
    return scales.stored


def refine_twice(values_RK: torch.Tensor, mask_RK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the magnitudes of two terms, [R, K] each."""
    first = Scales.of_rows(values_RK.abs(), mask_RK)
    second = Scales.of_rows((values_RK - sign(values_RK) * first.magnitudes).abs(), mask_RK)
    for _ in range(_ROUNDS):
        one, other = first.magnitudes, second.magnitudes
        signs, others = nearest_signs(values_RK, one, other)
        first.refine((values_RK - others * other) * signs, mask_RK)
        second.refine((values_RK - signs * first.magnitudes) * others, mask_RK)
    return first.stored, second.stored


def nearest_signs(
    values: torch.Tensor, first: torch.Tensor, second: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the signs of two magnitudes whose sum is nearest to values: the larger one's come first."""
    towards, leads = sign(values), first >= second
    after = sign(values - towards * torch.maximum(first, second))
    return torch.where(leads, towards, after), torch.where(leads, after, towards)


def _ratio(products: torch.Tensor, squares: torch.Tensor) -> torch.Tensor:
    return (products / squares.clamp_min(1e-30)).clamp_min(0)
