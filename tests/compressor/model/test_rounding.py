"""Rounding to nearest against plain loops, its error bound, and the bit widths that it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lathe.compressor.model.rounding import quantize_in_groups, round_matrix

CLIPPING = [1 - 0.04 * step for step in range(10)]


def matrix(rows: int, columns: int, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows * columns)
    return torch.randn(rows, columns, generator=generator) * 0.1 + shift


def bfloat16(value: float) -> float:
    return float(torch.tensor(value).bfloat16())


def by_hand(values: np.ndarray, bits: int, clip: bool, signed: bool) -> np.ndarray:
    """One group: every value at the nearest level of the scale that leaves the least error."""
    half = 2 ** (bits - 1)
    largest = values[np.abs(values).argmax()]
    ends = [abs(largest) / (half - 1), *([largest / -half] if signed else [])]
    best = np.full_like(values, np.inf)
    for end in ends:
        for share in CLIPPING if clip else CLIPPING[:1]:
            levels = bfloat16(end * share) * np.arange(-half, half)
            found = np.array([levels[np.abs(levels - value).argmin()] for value in values])
            if np.square(found - values).sum() < np.square(best - values).sum():
                best = found
    return best


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize(("clip", "signed"), [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize(("group", "shift"), [(8, 0.0), (24, 0.0), (8, 0.3), (7, -0.2)])
def test_every_value_goes_to_the_nearest_level_of_the_best_scale(
    bits: int, clip: bool, signed: bool, group: int, shift: float
) -> None:
    weight = matrix(5, 24, shift)
    padded = np.pad(weight.double().numpy(), ((0, 0), (0, -24 % group)))
    parts = [
        np.concatenate([by_hand(row[i : i + group], bits, clip, signed) for i in range(0, len(row), group)])
        for row in padded
    ]
    found = quantize_in_groups(weight, bits, group, clip=clip, signed=signed)
    np.testing.assert_allclose(found.values.numpy(), np.array(parts)[:, :24], atol=1e-6)
    assert found.codes.shape == (5, padded.shape[1])
    assert found.scales.shape == (5, padded.shape[1] // group)


def test_error_shrinks_with_bits_and_with_smaller_groups() -> None:
    weight = matrix(64, 256)

    def error(bits: int, group: int) -> float:
        return float((quantize_in_groups(weight, bits, group).values - weight).square().mean())

    assert error(8, 256) < error(6, 256) < error(4, 256) < error(2, 256)
    assert error(4, 16) < error(4, 32) < error(4, 128) < error(4, 256)
    assert error(8, 256) ** 0.5 < 0.01 * float(weight.std())


def test_zeros_and_constants_are_kept() -> None:
    weight = torch.zeros(3, 64)
    weight[1] = 0.5
    found = quantize_in_groups(weight, 4, 32)
    assert not found.values[0].any()
    torch.testing.assert_close(found.values, weight, rtol=1e-3, atol=0)


@pytest.mark.parametrize("bits", [1, 9])
def test_other_bit_widths_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="bits"):
        round_matrix(matrix(2, 2), bits)
