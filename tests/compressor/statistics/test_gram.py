"""Accumulators of second moments against plain products, and what adding and finalizing leave behind."""

from __future__ import annotations

import torch

from lathe.compressor.statistics.gram import CrossGram, Gram, merge_into_first


def rows(seed: int, count: int = 10) -> torch.Tensor:
    """Returns random rows, [count, 6]."""
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gram_of(x: torch.Tensor, parts: int = 0) -> Gram:
    """Returns an accumulator with these rows."""
    gram = Gram(x.shape[1], parts)
    gram.add_batch(x)
    return gram


def test_a_finalized_accumulator_is_empty_again() -> None:
    x, gram = rows(0), gram_of(rows(0))
    torch.testing.assert_close(gram.finalize(), x.T @ x / len(x))
    assert not gram.finalize().any()
    gram.add_batch(x)
    torch.testing.assert_close(gram.finalize(), x.T @ x / len(x))


def test_adding_leaves_the_other_accumulator_as_it_is() -> None:
    x, y, total, other = rows(0), rows(1), Gram(6), gram_of(rows(0))
    total.add(other)
    total.add_batch(y)
    both = torch.cat([x, y])
    torch.testing.assert_close(total.finalize(), both.T @ both / len(both))
    torch.testing.assert_close(other.finalize(), x.T @ x / len(x))


def test_accumulators_are_merged_into_the_first() -> None:
    parts = [gram_of(rows(seed)) for seed in range(3)]
    first, x = parts[0], torch.cat([rows(seed) for seed in range(3)])
    assert merge_into_first(iter(parts)) is first
    torch.testing.assert_close(first.finalize(), x.T @ x / len(x))


def test_parts_of_a_row_have_matrices_of_their_own() -> None:
    x = rows(0)
    expected = torch.stack([part.T @ part / len(x) for part in x.split(2, 1)])
    torch.testing.assert_close(gram_of(x, parts=3).finalize(), expected)


def test_targets_are_multiplied_with_their_inputs() -> None:
    x, y, cross = rows(0), rows(1)[:, :2], CrossGram(2, 6)
    cross.add_batch(y, x)
    torch.testing.assert_close(cross.finalize(), y.T @ x / len(x))


def test_rows_in_bfloat16_are_summed_in_float32() -> None:
    x = rows(4, 64).bfloat16()
    total = Gram(6)
    total.add_batch(x)
    torch.testing.assert_close(total.finalize(), (x.double().T @ x.double()) / len(x), rtol=1e-6, atol=1e-6)
