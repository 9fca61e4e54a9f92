"""The highest level of load that passes, found by doubling and then bisecting."""

from __future__ import annotations

from dataclasses import dataclass

RESOLUTION = 0.05
FACTOR = 1024


@dataclass
class Bisection:
    """Asks for levels until the highest that passes lies within 5 % of one that fails, or, for whole
    levels, next to it. It assumes that whatever passes at a level passes below.

    Gives up FACTOR times above `start`, or, where levels are not whole, below it.
    """

    start: float
    whole: bool
    best: float = 0.0
    """The highest level that passed; 0 before one has."""
    failing: float | None = None
    """The lowest level that failed."""

    @property
    def next(self) -> float | None:
        """The level to try now; None when the search is over."""
        if self.failing is None:
            level = 2 * self.best if self.best else self.start
            return level if level <= FACTOR * self.start else None
        if self.whole:
            over = self.failing - self.best <= max(1.0, RESOLUTION * self.best)
            return None if over else float(int(self.best + self.failing) // 2)
        if not self.best:
            return self.failing / 2 if self.failing > self.start / FACTOR else None
        over = self.failing - self.best <= RESOLUTION * self.failing
        return None if over else (self.best + self.failing) / 2

    def note(self, level: float, passed: bool) -> None:
        """Take in how `level`, which `next` asked for, went."""
        if passed:
            self.best = level
        else:
            self.failing = level
