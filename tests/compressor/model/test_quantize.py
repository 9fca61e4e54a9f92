"""Round-to-nearest against plain loops, its error bound, and the bytes it says it needs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lathe.compressor.model.quantize import quantize_layer, round_to_nearest


def matrix(rows: int, columns: int, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows * columns)
    return torch.randn(rows, columns, generator=generator) * 0.1 + shift


def by_hand(values: np.ndarray, bits: int, symmetric: bool) -> np.ndarray:
    """One group: every value at the nearest of all levels that the group's float16 scale gives."""
    if symmetric:
        largest = values[np.abs(values).argmax()]
        scale = float(np.float16(largest / -(2 ** (bits - 1))))
        levels = scale * np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1))
    else:
        low, high = min(values.min(), 0.0), max(values.max(), 0.0)
        scale = float(np.float16((high - low) / (2**bits - 1)))
        levels = scale * (np.arange(2**bits) - round(-low / scale))
    return np.array([levels[np.abs(levels - v).argmin()] for v in values])


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize(("group", "shift"), [(8, 0.0), (None, 0.0), (8, 0.3), (7, -0.2)])
def test_every_value_goes_to_the_nearest_level_of_the_better_grid(
    bits: int, group: int | None, shift: float
) -> None:
    weight = matrix(5, 24, shift)
    size = group or 24
    grids = []
    for symmetric in (True, False):
        parts = [
            [by_hand(row[i : i + size], bits, symmetric) for i in range(0, 24, size)]
            for row in weight.double().numpy()
        ]
        grids.append(np.array([np.concatenate(row) for row in parts]))
    errors = [np.square(grid - weight.numpy()).sum() for grid in grids]
    found, stored = round_to_nearest(weight, bits, group)
    np.testing.assert_allclose(found.numpy(), grids[int(np.argmin(errors))], atol=1e-6)
    groups = 5 * -(-24 // size)
    zeros = 0 if errors[0] < errors[1] else -(-groups * bits // 8)
    assert stored == 5 * 24 * bits // 8 + 2 * groups + zeros


def test_error_shrinks_with_bits_and_with_smaller_groups() -> None:
    weight = matrix(64, 256)

    def error(bits: int, group: int | None) -> float:
        return float((round_to_nearest(weight, bits, group)[0] - weight).square().mean())

    assert error(8, None) < error(6, None) < error(4, None) < error(2, None)
    assert error(4, 16) < error(4, 32) < error(4, 128) < error(4, None)
    assert error(8, None) ** 0.5 < 0.01 * float(weight.std())


def test_zeros_and_constants_are_kept() -> None:
    weight = torch.zeros(3, 64)
    weight[1] = 0.5
    found, _ = round_to_nearest(weight, 4, 32)
    assert not found[0].any()
    torch.testing.assert_close(found, weight, rtol=1e-3, atol=0)


def test_a_layer_keeps_its_vectors_and_counts_them_as_float16() -> None:
    layer = {"a.weight": matrix(16, 64), "norm.weight": torch.rand(64), "a.bias": torch.rand(16)}
    found, stored = quantize_layer(layer, 4, 32)
    assert found["norm.weight"] is layer["norm.weight"]
    rounded, size = round_to_nearest(layer["a.weight"], 4, 32)
    assert found["a.weight"].equal(rounded)
    assert stored == size + 2 * (64 + 16)


@pytest.mark.parametrize("bits", [1, 9])
def test_other_bit_widths_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="bits"):
        round_to_nearest(matrix(2, 2), bits)
