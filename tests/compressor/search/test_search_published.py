"""The paper's evolution on numbers: parents, the number of evaluations, and what a mutation keeps."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from lathe.compressor.search.published import Breeding, Effort, evolve, resample


@dataclass(frozen=True)
class Number:
    """A candidate that is a number."""

    value: int

    @property
    def key(self) -> str:
        return str(self.value)


class Numbers(Breeding[Number]):
    """Everything is new; odd numbers are out of range. `made` notes the probabilities of each mutation."""

    def __init__(self) -> None:
        super().__init__(0)
        self.last, self.made, self.parents = 0, [], []  # type: ignore[var-annotated]

    def uniform(self) -> Number:
        return Number(1_000_000)

    def mutate(self, parent: Number, mask: float, ratio: float, depth: float) -> Number:
        self.last += 1
        self.parents.append(parent)
        if self.last % 2 == 0:
            self.made.append((mask, ratio, depth))
        return Number(self.last)

    def cross(self, first: Number, second: Number) -> Number:
        self.last += 1
        self.parents += [first, second]
        if self.last % 2 == 0:
            self.made.append("cross")
        return Number(self.last)

    def in_range(self, candidate: Number) -> bool:
        return candidate.value % 2 == 0


FIRST, LATER = (0.6, 0.3, 0.0), (0.3, 0.1, 0.1)


def test_an_epoch_is_100_candidates_made_as_published() -> None:
    numbers, evaluated = Numbers(), []

    def evaluate(number: Number, epoch: int) -> float:
        evaluated.append((number, epoch))
        return -number.value

    best = evolve(numbers, Effort(100, 3), evaluate, lambda: None, lambda _: None)
    assert [epoch for _, epoch in evaluated] == [0] * 100 + [1] * 100 + [2] * 100
    assert best.evaluated == 300
    assert numbers.made[:99] == [FIRST] * 99
    epoch = [LATER] * 50 + ["cross"] * 30 + [FIRST] * 20
    assert numbers.made[99:299] == 2 * epoch
    assert (best.candidate, best.fitness) == (Number(1_000_000), -1_000_000)


def test_the_ten_best_so_far_are_the_parents() -> None:
    numbers, ranks = Numbers(), []
    evolve(numbers, Effort(100, 4), lambda n, _: n.value, lambda: None, ranks.append)
    assert {p.value for p in numbers.parents[198:]} == set(range(2, 22, 2))
    assert ranks == [2, 2, 2, 2]


def test_a_shorter_search_shrinks_population_and_epochs_alike() -> None:
    assert Effort.of(5000) == Effort(100, 50) == Effort.of(9000)
    assert Effort.of(500) == Effort(32, 16)
    assert Effort.of(1) == Effort(10, 2)


@pytest.mark.parametrize(
    ("before", "size", "stays"), [(50, 50, 40), (50, 60, 40), (50, 30, 30), (10, 100, 8)]
)
def test_resampling_keeps_at_least_its_share_and_fills_at_random(before: int, size: int, stays: int) -> None:
    generator = torch.Generator().manual_seed(1)
    kept = torch.randperm(100, generator=generator)[:before].sort().values
    drawn = [resample(kept, 100, size, 0.8, generator).tolist() for _ in range(300)]
    for units in drawn:
        assert units == sorted(set(units))
        assert len(units) == size
        assert len(set(units) & set(kept.tolist())) >= stays
        assert set(units) <= set(range(100))
    often = torch.bincount(torch.tensor(drawn).flatten(), minlength=100) / 300
    inside = torch.zeros(100, dtype=torch.bool)
    inside[kept] = True
    new = (size - stays) / (100 - stays)
    assert often[~inside].sub(new).abs().max() < 0.15
    assert often[inside].sub(stays / before + (1 - stays / before) * new).abs().max() < 0.15


def test_breeding_gives_up_where_nothing_is_in_range(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = Numbers()
    monkeypatch.setattr(numbers, "in_range", lambda number: number.value <= 3)
    assert numbers.children([Number(0)], 10, 0.6, 0.3, 0.0) == [Number(1), Number(2), Number(3)]
    assert numbers.last == 503
