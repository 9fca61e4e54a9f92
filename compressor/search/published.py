"""The paper's evolution (arXiv 2409.17372, Sec. 3.3.3 and 4.1), for any kind of candidate.

It starts from one initial subnet and runs for 50 epochs of 100 candidates, made of the 10 best so far (50
mutations, 30 crossings, the rest with the first epoch's larger probabilities). The parents compete with their
offspring. Candidates outside the parameter range are dropped and made anew.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch

_POPULATION, _MUTATIONS, _CROSSINGS, _PARENTS, _EPOCHS = 100, 50, 30, 10, 50
EVALUATIONS = _POPULATION * _EPOCHS
SIMILARITY = 0.8
_FIRST_MASK, _FIRST_RATIO = 0.6, 0.3
_MASK, _RATIO, _DEPTH = 0.3, 0.1, 0.1
_TRIES = 500


class Keyed(Protocol):
    """A candidate whose key identifies its subnet."""

    @property
    def key(self) -> str:
        """Returns a key that is equal for equal subnets."""


Candidate = TypeVar("Candidate", bound=Keyed)


class Breeding(ABC, Generic[Candidate]):
    """Makes candidates of one kind."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    @abstractmethod
    def uniform(self) -> Candidate:
        """Returns the initial subnet: the score's best units at one ratio for all blocks."""

    @abstractmethod
    def mutate(self, parent: Candidate, mask: float, ratio: float, depth: float) -> Candidate:
        """Returns a changed copy; the probabilities are those of Sec. 4.1."""

    @abstractmethod
    def cross(self, first: Candidate, second: Candidate) -> Candidate:
        """Returns a candidate made of two parents."""

    @abstractmethod
    def in_range(self, candidate: Candidate) -> bool:
        """Tells whether a candidate's size is close to the target."""

    def children(
        self, parents: list[Candidate], count: int, mask: float, ratio: float, depth: float
    ) -> list[Candidate]:
        """Returns mutations of random parents that are in range."""
        return self._until(count, lambda: self.mutate(self.rng.choice(parents), mask, ratio, depth))

    def crossings(self, parents: list[Candidate], count: int) -> list[Candidate]:
        """Returns crossings of random parents that are in range."""
        if len(parents) < 2:
            return []
        return self._until(count, lambda: self.cross(*self.rng.sample(parents, 2)))

    def _until(self, count: int, make: Callable[[], Candidate]) -> list[Candidate]:
        """Returns up to `count` candidates in range; fewer once too many in a row were out of it."""
        made: list[Candidate] = []
        missed = 0
        while len(made) < count and missed < _TRIES:
            child = make()
            missed = 0 if self.in_range(child) else missed + 1
            if not missed:
                made.append(child)
        return made


@dataclass(frozen=True)
class Effort:
    """The number of candidates per epoch and of epochs."""

    population: int = _POPULATION
    epochs: int = _EPOCHS

    @classmethod
    def of(cls, evaluations: int) -> Effort:
        """Shortens population and epochs alike to about this many evaluations."""
        scale = min(1.0, evaluations / EVALUATIONS) ** 0.5
        return cls(max(10, round(_POPULATION * scale)), max(2, round(_EPOCHS * scale)))

    @property
    def total(self) -> int:
        """Returns the number of candidates of all epochs."""
        return self.population * self.epochs

    def share(self, published: int) -> int:
        """Scales a number of candidates with the population."""
        return self.population * published // _POPULATION


@dataclass(frozen=True)
class Winner(Generic[Candidate]):
    """The best candidate, its fitness, and the number of different candidates that were evaluated."""

    candidate: Candidate
    fitness: float
    evaluated: int


def evolve(
    breeding: Breeding[Candidate],
    effort: Effort,
    evaluate: Callable[[Candidate, int], float],
    advance: Callable[[], None],
    epoch_done: Callable[[float], None],
) -> Winner[Candidate]:
    """Runs the evolution and returns its best candidate.

    Args:
        breeding: Makes candidates.
        effort: The size of the search.
        evaluate: (candidate, epoch) -> fitness; less is better.
        advance: Called for every candidate.
        epoch_done: Called with the best fitness after every epoch.
    """
    start = breeding.uniform()
    pool = [start, *breeding.children([start], effort.population - 1, _FIRST_MASK, _FIRST_RATIO, 0.0)]
    parents: list[Candidate] = []
    scores: dict[str, float] = {}
    for epoch in range(effort.epochs):
        for candidate in pool:
            if candidate.key not in scores:
                scores[candidate.key] = evaluate(candidate, epoch)
            advance()
        different = {c.key: c for c in (*parents, *pool)}.values()
        parents = sorted(different, key=lambda c: scores[c.key])[: max(2, effort.share(_PARENTS))]
        epoch_done(scores[parents[0].key])
        pool = breeding.children(parents, effort.share(_MUTATIONS), _MASK, _RATIO, _DEPTH)
        pool += breeding.crossings(parents, effort.share(_CROSSINGS))
        pool += breeding.children(parents, effort.population - len(pool), _FIRST_MASK, _FIRST_RATIO, 0.0)
    return Winner(parents[0], scores[parents[0].key], len(scores))


def resample(
    kept: torch.Tensor, width: int, size: int, similarity: float, generator: torch.Generator
) -> torch.Tensor:
    """Draws `size` of `width` units, in ascending order.

    The share `similarity` of the kept units stays, as far as it fits, and the rest is filled at random. This
    is Alg. 1 as it is meant: as printed, it draws sets at random until one is similar enough, which at most
    ratios never happens (docs/method.md).
    """
    stay = min(size, int(similarity * len(kept)))
    core = kept[torch.randperm(len(kept), generator=generator)[:stay]]
    free = torch.ones(width, dtype=torch.bool)
    free[core] = False
    others = torch.nonzero(free)[:, 0]
    fill = others[torch.randperm(len(others), generator=generator)[: size - stay]]
    return torch.cat([core, fill]).sort().values
