"""Published methods against plain loops over their formulas."""

from __future__ import annotations

import torch
from torch.testing import assert_close

from lathe.compressor.model.pattern import Pattern
from lathe.compressor.reconstruction.patterns.registry import pattern_methods

PATTERN = Pattern(2, 4)
ROWS, COLUMNS = 10, 160


def problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A matrix, inputs of which one is always zero, and their Gram matrix."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(ROWS, COLUMNS, generator=generator)
    inputs = torch.randn(400, COLUMNS, generator=generator).double()
    inputs = inputs * torch.linspace(0.2, 2, COLUMNS).double() + inputs.roll(1, 1)
    inputs[:, 7] = 0
    return weight, inputs, inputs.T @ inputs / len(inputs)


def largest_two(scores: torch.Tensor) -> torch.Tensor:
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for row, own in enumerate(scores):
        for start in range(0, len(own), 4):
            for place in own[start : start + 4].argsort(descending=True)[:2]:
                kept[row, start + place] = True
    return kept


def test_magnitude() -> None:
    weight, _, gram = problem()
    expected = weight.where(largest_two(weight.abs()), 0)
    assert pattern_methods.get("magnitude").prune(weight, gram, PATTERN).equal(expected)


def test_wanda_weighs_by_the_norms_of_inputs() -> None:
    weight, inputs, gram = problem()
    scores = weight.double().abs() * inputs.norm(dim=0)
    found = pattern_methods.get("wanda").prune(weight, gram, PATTERN)
    assert found.equal(weight.where(largest_two(scores), 0))


def test_sparsegpt_is_the_loop_over_columns() -> None:
    weight, _, gram = problem()
    expected, hessian = weight.double().clone(), gram.clone()
    hessian[7, 7] = gram.diagonal().mean()  # an input that is always zero costs nothing whatever its size
    hessian += 0.01 * hessian.diagonal().mean() * torch.eye(COLUMNS, dtype=torch.float64)
    inverse = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    kept = torch.ones_like(weight, dtype=torch.bool)
    for column in range(COLUMNS):
        if column % 4 == 0:
            here = slice(column, column + 4)
            kept[:, here] = largest_two((expected[:, here] / inverse.diagonal()[here]) ** 2)
        error = expected[:, column] * ~kept[:, column] / inverse[column, column]
        expected[:, column:] -= error[:, None] * inverse[column, column:]
        expected[~kept[:, column], column] = 0
    found = pattern_methods.get("sparsegpt").prune(weight, gram, PATTERN)
    assert (found != 0).equal(kept)
    assert_close(found.double(), expected, rtol=1e-3, atol=1e-4)
