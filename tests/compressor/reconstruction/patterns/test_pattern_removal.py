"""Joint removal against brute force and direct solves in float64: the sets, the change, the optimum."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch.testing import assert_close

from lathe.compressor.model.pattern import Pattern
from lathe.compressor.reconstruction.closed_form import damped, reconstruct
from lathe.compressor.reconstruction.kept_weights import solve_kept, squared_errors
from lathe.compressor.reconstruction.patterns.choice import highest
from lathe.compressor.reconstruction.patterns.group_removal import cheapest_removal, remove_groups
from lathe.compressor.reconstruction.patterns.registry import pattern_methods

PATTERNS = [Pattern(2, 4), Pattern(1, 4), Pattern(3, 4), Pattern(4, 8), Pattern(1, 2)]
ROWS, COLUMNS = 12, 32


def problem(seed: int = 0, rows: int = ROWS, columns: int = COLUMNS) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix and the Gram matrix of inputs that depend on each other, float64."""
    generator = torch.Generator().manual_seed(seed)
    weight, mix = (torch.randn(n, columns, generator=generator).double() for n in (rows, columns))
    inputs = torch.randn(200, columns, generator=generator).double() @ (mix / 2 + torch.eye(columns))
    return weight, damped(inputs.T @ inputs / 200, 0.01)


def factor(gram: torch.Tensor) -> torch.Tensor:
    return torch.linalg.cholesky(torch.linalg.inv(gram), upper=True)


def increase(weight: torch.Tensor, inverse: torch.Tensor, places: list[int]) -> float:
    removed = weight[places]
    return float(removed @ torch.linalg.inv(inverse[places][:, places]) @ removed) / 2


def change(weight: torch.Tensor, inverse: torch.Tensor, places: list[int]) -> torch.Tensor:
    """The multiple-removal optimum of a row."""
    return -weight[places] @ torch.linalg.inv(inverse[places][:, places]) @ inverse[places]


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_the_set_of_a_group_is_the_cheapest_of_all(pattern: Pattern) -> None:
    weight, gram = problem()
    inverse, group = torch.linalg.inv(gram), pattern.group
    found = cheapest_removal(weight.T[:group], factor(gram)[:group, :group], pattern)
    for row, own in enumerate(weight):
        sets = [list(s) for s in combinations(range(group), group - pattern.kept)]
        best = min(sets, key=lambda places: increase(own, inverse, places))
        assert found.removed[:, row].nonzero().flatten().tolist() == best


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_groups_are_removed_as_by_inverses_made_anew(pattern: Pattern) -> None:
    weight, gram = problem(1)
    expected = weight.clone()
    for start in range(0, COLUMNS, pattern.group):
        inverse = torch.linalg.inv(gram[start:, start:])
        for row in expected:
            sets = [list(s) for s in pattern.removed]
            best = min(sets, key=lambda places: increase(row[start:], inverse, places))
            row[start:] += change(row[start:], inverse, best)
            row[[start + place for place in best]] = 0
    assert_close(remove_groups(weight, factor(gram), pattern), expected, rtol=1e-8, atol=1e-9)


def test_what_is_left_of_a_row_is_the_optimum_without_one_set() -> None:
    weight, gram = problem(2)
    inverse, places = torch.linalg.inv(gram), [1, 2, 9, 30]
    kept = torch.ones_like(weight, dtype=torch.bool)
    kept[:, places] = False
    found = solve_kept(weight, gram, weight, kept)
    for row, own in zip(weight, found, strict=True):
        assert_close(own, row + change(row, inverse, places), rtol=1e-5, atol=1e-6)
        before = float((own - row) @ gram @ (own - row)) / 2
        assert before == pytest.approx(increase(row, inverse, places))


def test_closed_form_compensation_is_the_optimum_of_removing_whole_columns() -> None:
    weight, gram = problem(3)
    inverse, removed = torch.linalg.inv(gram), [*range(8), *range(16, 20)]
    kept = [column for column in range(COLUMNS) if column not in removed]
    found = reconstruct(weight, gram, torch.tensor(kept))
    expected = torch.stack([row + change(row, inverse, removed) for row in weight])
    assert_close(found, expected[:, kept], rtol=1e-8, atol=1e-9)
    assert expected[:, removed].abs().max() < 1e-8


def test_kept_weights_are_the_constrained_least_squares() -> None:
    weight, gram = problem(4)
    kept = highest(torch.rand(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0)), Pattern(2, 4))
    found = solve_kept(weight, gram, weight, kept)
    assert not found[~kept].any()
    for row, own, places in zip(weight, found, kept, strict=True):
        direct = torch.linalg.solve(gram[places][:, places], (gram @ row)[places])
        assert_close(own[places], direct, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_highest_scores_stay(pattern: Pattern) -> None:
    scores = torch.randint(0, 4, (20, 40), generator=torch.Generator().manual_seed(1)).float()
    kept = highest(scores, pattern).unflatten(1, (-1, pattern.group))
    assert (kept.sum(-1) == pattern.kept).all()
    groups = scores.unflatten(1, (-1, pattern.group))
    least, most = groups.where(kept, torch.inf).amin(-1), groups.where(~kept, -torch.inf).amax(-1)
    assert (least >= most).all()


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_methods_keep_the_pattern_and_come_in_order(pattern: Pattern) -> None:
    weight, gram = problem(5, rows=64, columns=64)
    errors = {}
    for name in pattern_methods.known():
        found = pattern_methods.get(name).prune(weight.float(), gram, pattern)
        kept = found.unflatten(1, (-1, pattern.group)) != 0
        assert (kept.sum(-1) == pattern.kept).all(), name
        errors[name] = float(squared_errors(found, weight, damped(gram, 0.01)).sum())
    order = ("joint", "mrp", "sparsegpt", "wanda")
    assert [errors[name] for name in order] == sorted(errors[name] for name in order)
    assert errors["joint"] < errors["mrp"]
