"""Rounding row by row with feedback: against the optimum of the rows that are left, and what it is worth."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lathe.compressor.model.rounding import QuantizedMatrix
from lathe.compressor.reconstruction import row_feedback
from lathe.compressor.reconstruction.compensated_rounding import ColumnRounding
from lathe.compressor.reconstruction.rounded_block import round_block
from lathe.compressor.reconstruction.row_feedback import round_by_rows


def gram(width: int, seed: int) -> torch.Tensor:
    """The Gram matrix of correlated values of uneven sizes."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator) / width**0.5 + torch.eye(width)
    sizes = torch.linspace(0.2, 2.0, width)[torch.randperm(width, generator=generator)]
    values = (torch.randn(4 * width, width, generator=generator) @ mixing) * sizes
    return (values.T @ values / len(values)).double()


def matrix(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows * columns))


def rounded(inputs: torch.Tensor, weight: torch.Tensor, gradients: torch.Tensor) -> QuantizedMatrix:
    (found,) = round_by_rows([weight], [gradients], ColumnRounding(inputs, 4, 32))
    return found


def test_each_step_is_the_optimum_of_the_rows_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_feedback, "ROWS", 4)
    weight, inputs, gradients = matrix(12, 64), gram(64, 0), gram(12, 1)
    found = rounded(inputs, weight, gradients)
    b = gradients.numpy()
    damped = b + 0.1 * b.diagonal().mean() * np.eye(12)
    left, now = list(np.argsort(-b.diagonal(), kind="stable")), weight.double().numpy()
    while left:
        here, left = left[:4], left[4:]
        value = ColumnRounding(inputs, 4, 32)(torch.from_numpy(now[here])).values.double().numpy()
        error, now[here] = now[here] - value, value
        if left:
            now[left] += np.linalg.solve(damped[np.ix_(left, left)], damped[np.ix_(left, here)]) @ error
    np.testing.assert_allclose(found.values.numpy(), now, atol=1e-5)


def test_the_loss_rises_less_than_by_feedback_over_columns_alone() -> None:
    weight, inputs, gradients = matrix(256, 64), gram(64, 2), gram(256, 3)

    def rise(values: torch.Tensor) -> float:
        change = (values - weight).double()
        return float((gradients @ change @ inputs * change).sum())

    alone = ColumnRounding(inputs, 4, 32)(weight)
    assert rise(rounded(inputs, weight, gradients).values) < 0.8 * rise(alone.values)


def test_gradients_without_correlation_leave_every_row_as_it_is_rounded_alone() -> None:
    weight, inputs = matrix(150, 64), gram(64, 4)
    found = rounded(inputs, weight, torch.diag(torch.rand(150) + 0.5))
    alone = ColumnRounding(inputs, 4, 32)(weight)
    torch.testing.assert_close(found.values, alone.values, rtol=0, atol=1e-5)


def test_matrices_of_a_block_that_read_the_same_have_each_their_own_gradients() -> None:
    names = [f"mlp.{name}_proj.weight" for name in ("gate", "up")]
    block = {names[0]: matrix(96, 64), names[1]: matrix(96, 64).flip(1)}
    inputs, gradients = gram(64, 5), {name: gram(96, seed) for seed, name in enumerate(names)}
    found = round_block(block, dict.fromkeys(names, inputs), bits=4, gradients=gradients)
    for name in names:
        (own,) = round_by_rows([block[name]], [gradients[name]], ColumnRounding(inputs, 4, found[name].group))
        torch.testing.assert_close(found[name].values, own.values, rtol=0, atol=1e-5)
        error = (own.values - block[name]).norm() / block[name].norm()
        assert found[name].error == pytest.approx(float(error), rel=1e-4)
