"""The highest level of load that passes, found by doubling and then bisecting."""

from __future__ import annotations

from dataclasses import dataclass, field

RESOLUTION = 0.05
FACTOR = 1024
TRIES = 2


@dataclass
class Bisection:
    """A search for the highest level that passes.

    It ends when that level lies within 5 % of one that fails, or, for whole levels, next to it. It assumes
    that every level below one that passes passes, too. The level that would end the search has to fail
    twice, so that one bad moment of the machine does not end it. The search gives up FACTOR times above
    `start`, or, where levels are not whole, below it.
    """

    start: float
    whole: bool
    best: float = 0.0
    """The highest level that passed; 0 before one has."""
    _failed: dict[float, int] = field(default_factory=dict)

    @property
    def failing(self) -> float | None:
        """The lowest level that failed, above all that passed."""
        return min(self._failed, default=None)

    @property
    def next(self) -> float | None:
        """The level to try now; None when the search is over."""
        failing = self.failing
        if failing is None:
            level = 2 * self.best if self.best else self.start
            return level if level <= FACTOR * self.start else None
        between = self._between(failing)
        if between is None and self._failed[failing] < TRIES:
            return failing
        return between

    def _between(self, failing: float) -> float | None:
        if self.whole:
            over = failing - self.best <= max(1.0, RESOLUTION * self.best)
            return None if over else float(int(self.best + failing) // 2)
        if not self.best:
            return failing / 2 if failing > self.start / FACTOR else None
        over = failing - self.best <= RESOLUTION * failing
        return None if over else (self.best + failing) / 2

    def note(self, level: float, passed: bool) -> None:
        """Takes in the result of a level that `next` asked for."""
        if passed:
            self.best = level
            self._failed = {other: tries for other, tries in self._failed.items() if other > level}
        else:
            self._failed[level] = self._failed.get(level, 0) + 1
