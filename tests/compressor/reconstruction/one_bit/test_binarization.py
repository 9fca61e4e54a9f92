"""Binarization of rows, its levels, break points and salient columns, against plain loops and brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from lathe.compressor.reconstruction.one_bit.billm import billm
from lathe.compressor.reconstruction.one_bit.binarization import (
    binarize,
    binarize_twice,
    error_once,
    error_twice,
)
from lathe.compressor.reconstruction.one_bit.break_point import above_break
from lathe.compressor.reconstruction.one_bit.levels import nearest, sign
from lathe.compressor.reconstruction.one_bit.saliency import salient_columns

Problem = tuple[torch.Tensor, torch.Tensor]


def problem(rows: int, columns: int, seed: int = 0) -> Problem:
    """Weights whose columns differ in size, and a factor's diagonal."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(rows, columns, generator=generator) + 0.1
    weights *= torch.rand(columns, generator=generator) + 0.2
    factors = torch.rand(columns, generator=generator) + 0.3
    factors[columns // 3] = 0.05  # one column of very large inputs
    return weights, factors


def loop_once(row: np.ndarray) -> tuple[float, float]:
    mean = row.mean() if len(row) else 0.0
    return mean, abs(row - mean).mean() if len(row) else 0.0


def loop_twice(row: np.ndarray) -> tuple[float, float, float]:
    mean, first = loop_once(row)
    left = row - mean - np.where(row >= mean, first, -first)
    again, second = loop_once(left)
    return mean + again, first, second


def loop_nearest(row: np.ndarray, mean: float, *magnitudes: float) -> np.ndarray:
    signs = itertools.product((1, -1), repeat=len(magnitudes))
    levels = np.array([mean + np.dot(chosen, magnitudes) for chosen in signs])
    return levels[abs(row[:, None] - levels).argmin(1)]


def test_rows_are_binarized_as_by_a_loop() -> None:
    values, _ = problem(7, 40)
    mask = (torch.rand(7, 40, generator=torch.Generator().manual_seed(1)) > 0.4).float()
    mask[3] = 0
    found, twice = binarize(values, mask), binarize_twice(values)
    for row in range(7):
        expected = loop_once(values[row][mask[row] > 0].double().numpy())
        np.testing.assert_allclose([float(part[row]) for part in found], expected, atol=1e-6)
        np.testing.assert_allclose(
            [float(part[row]) for part in twice], loop_twice(values[row].double().numpy()), atol=1e-6
        )


def test_magnitudes_are_those_of_least_squares_for_their_mask_and_signs() -> None:
    values, _ = problem(5, 30)
    values = values.double()
    mask = torch.ones_like(values)
    mask[:, ::3] = 0
    mean, magnitude = binarize(values, mask)
    centre, first, second = binarize_twice(values)
    for row in range(5):
        kept = values[row][mask[row] > 0] - mean[row]
        solved = torch.linalg.lstsq(sign(kept)[:, None].double(), kept[:, None]).solution
        assert float(magnitude[row]) == pytest.approx(float(solved), rel=1e-6)
        left = values[row] - values[row].mean()
        solved = torch.linalg.lstsq(sign(left)[:, None].double(), left[:, None]).solution
        assert float(first[row]) == pytest.approx(float(solved), rel=1e-6)
        left = left - sign(left) * first[row]
        left -= left.mean()
        solved = torch.linalg.lstsq(sign(left)[:, None].double(), left[:, None]).solution
        assert float(second[row]) == pytest.approx(float(solved), rel=1e-6)
        assert float(centre[row]) != pytest.approx(float(values[row].mean()), abs=1e-9)


def test_the_nearest_of_four_levels_is_taken_whichever_magnitude_is_larger() -> None:
    values = torch.linspace(-3, 3, 101)
    for first, second in ((1.0, 0.4), (0.4, 1.0), (0.7, 0.7), (0.9, 0.0)):
        found = nearest(values, torch.tensor(0.2), torch.tensor(first), torch.tensor(second))
        levels = loop_nearest(values.double().numpy(), 0.2, first, second)
        np.testing.assert_allclose(
            abs(found - values).numpy(), abs(levels - values.double().numpy()), atol=1e-6
        )


def test_errors_are_those_of_the_values_that_are_taken() -> None:
    values, _ = problem(6, 24)
    mask = (values > 0).float()
    once = twice = 0.0
    for row, kept in zip(values.double().numpy(), mask.numpy() > 0, strict=True):
        once += np.square(row[kept] - loop_nearest(row[kept], *loop_once(row[kept]))).sum()
        twice += np.square(row - loop_nearest(row, *loop_twice(row))).sum()
    assert error_once(values, mask) == pytest.approx(once, rel=1e-5)
    assert error_twice(values) == pytest.approx(twice, rel=1e-5)
    assert error_twice(values[:, :0]) == 0


def test_the_break_point_is_the_best_of_all_shares() -> None:
    values, _ = problem(9, 32)
    flat = values.double().numpy()
    tried = []
    for point in np.quantile(abs(flat), np.linspace(0.1, 0.9, 81)):
        error = 0.0
        for row in flat:
            for part in (row[abs(row) < point], row[abs(row) >= point]):
                if len(part):
                    error += np.square(part - loop_nearest(part, *loop_once(part))).sum()
        tried.append((error, point))
    above = above_break(values)
    own = error_once(values, above) + error_once(values, 1 - above)
    assert own == pytest.approx(min(tried)[0], rel=1e-4)
    assert own < 0.6 * error_once(values, torch.ones_like(values))


def test_salient_columns_lead_in_saliency_and_their_count_errs_least() -> None:
    values, factors = problem(11, 64)
    salient = salient_columns(values, factors)
    saliencies = (values / factors).double().numpy() ** 2
    order = np.argsort(-saliencies.sum(0), kind="stable")
    errors = [
        sum(
            np.square(row - loop_nearest(row, *loop_twice(row))).sum()
            for part in (saliencies[:, order[:count]], saliencies[:, order[count:]])
            for row in part
        )
        for count in range(1, 50)
    ]
    assert set(salient.nonzero()[:, 0].tolist()) == set(order[: 1 + int(np.argmin(errors))].tolist())
    assert salient[64 // 3]
    assert not salient_columns(values[:, :1], factors[:1]).any()


def test_a_block_of_billm_is_that_of_a_loop() -> None:
    values, factors = problem(10, 48)
    found, salient = billm(values, factors), salient_columns(values, factors)
    above = above_break(values[:, ~salient]).numpy() > 0
    for row in range(10):
        others = values[row, ~salient].double().numpy()
        expected = np.empty(48)
        expected[salient.numpy()] = loop_nearest(
            values[row, salient].double().numpy(), *loop_twice(values[row, salient].double().numpy())
        )
        part = np.empty(len(others))
        for group in (above[row], ~above[row]):
            part[group] = loop_nearest(others[group], *loop_once(others[group]))
        expected[~salient.numpy()] = part
        taken = [float(found.settle(at, values[:, at])[row]) for at in range(48)]
        np.testing.assert_allclose(taken, expected, atol=0.02)  # scales are stored in 16 bits


def test_a_block_takes_as_many_bits_as_its_signs_masks_and_scales() -> None:
    values, factors = problem(10, 128)
    found, salient = billm(values, factors).storage, salient_columns(values, factors)
    signs = masks = 0
    for column in range(128):
        masks += 1  # salient or not
        for _ in range(10):
            signs += 2 if salient[column] else 1
            masks += 0 if salient[column] else 1  # below the break point or not
    scales = 10 * (2 + 2 + 3)  # mean and magnitude of either group; mean and two magnitudes
    assert (found.weights, found.signs, found.masks, found.scales) == (1280, signs, masks, scales)
    assert found.nominal == signs / 1280
    assert found.effective == pytest.approx(2 + 7 * 16 / 128 + 1 / 10)
    levels = billm(values, factors)
    for row in range(10):  # no more values than those bits tell apart
        taken = torch.tensor([float(levels.settle(at, values[:, at])[row]) for at in range(128)])
        assert len(taken[salient].unique()) <= 4
        assert len(taken[~salient].unique()) <= 4
