"""Compensated rounding against optimal brain quantization step by step, and against rounding to nearest."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lathe.compressor.model.rounding import quantize_in_groups
from lathe.compressor.reconstruction.compensated_rounding import round_compensated


def problem(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix and the Gram matrix of correlated inputs of uneven sizes."""
    generator = torch.Generator().manual_seed(rows * columns)
    weight = torch.randn(rows, columns, generator=generator)
    mixing = torch.randn(columns, columns, generator=generator) / columns**0.5
    sizes = torch.linspace(0.2, 2.0, columns)[torch.randperm(columns, generator=generator)]
    inputs = (torch.randn(4 * columns, columns, generator=generator) @ (mixing + torch.eye(columns))) * sizes
    return weight, (inputs.T @ inputs / len(inputs)).double()


def step_by_step(
    weight: np.ndarray, gram: np.ndarray, scales: np.ndarray, group: int, bits: int
) -> np.ndarray:
    """Rounds a column, then sets all that are left to their optimum given the error (OBQ, 2208.11580)."""
    columns, half = gram.shape[0], 2 ** (bits - 1)
    damped = gram + 0.01 * gram.diagonal().mean() * np.eye(columns)
    left, rounded = list(np.argsort(-gram.diagonal(), kind="stable")), weight.copy()
    while left:
        column, *rest = left
        scale = scales[:, column // group]
        value = np.clip(np.round(rounded[:, column] / scale), -half, half - 1) * scale
        error, rounded[:, column] = rounded[:, column] - value, value
        if rest:
            change = np.linalg.solve(damped[np.ix_(rest, rest)], damped[rest, column])
            rounded[:, rest] += error[:, None] * change
        left = rest
    return rounded


@pytest.mark.parametrize(("columns", "group", "bits"), [(32, 32, 4), (64, 16, 4), (160, 32, 3), (48, 32, 8)])
def test_each_step_is_the_optimum_of_the_columns_that_are_left(columns: int, group: int, bits: int) -> None:
    weight, gram = problem(6, columns)
    found = round_compensated(weight, gram, bits, group)
    expected = step_by_step(weight.double().numpy(), gram.numpy(), found.scales.double().numpy(), group, bits)
    assert found.values.shape == weight.shape
    np.testing.assert_allclose(found.values.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("bits", [4, 8])
def test_outputs_change_less_than_by_rounding_to_nearest(bits: int) -> None:
    weight, gram = problem(24, 128)

    def output_error(values: torch.Tensor) -> float:
        change = (values - weight).double()
        return float((change @ gram * change).sum())

    nearest = quantize_in_groups(weight, bits, 32).values
    assert output_error(round_compensated(weight, gram, bits, 32).values) < 0.5 * output_error(nearest)


def test_inputs_without_correlation_leave_rounding_to_nearest() -> None:
    weight, _ = problem(5, 64)
    found, nearest = round_compensated(weight, torch.eye(64), 4, 32), quantize_in_groups(weight, 4, 32)
    assert torch.equal(found.codes, nearest.codes)
    assert torch.equal(found.scales, nearest.scales)


def test_inputs_that_are_always_zero_do_no_harm() -> None:
    weight, gram = problem(4, 64)
    gram[:, 10] = gram[10] = 0
    found = round_compensated(weight, gram, 4, 32)
    assert found.values.isfinite().all()
    assert found.error < 0.3
