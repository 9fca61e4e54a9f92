"""Which repeats another process disturbed, and what they would have taken without it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field

_UNDISTURBED = 0.9
"""A repeat is preempted if it got less than this part of the processor time that it gets undisturbed."""
_FEW_TURNS = 4


@dataclass(frozen=True)
class Repeat:
    """The steps of one repeat of a system.

    Attributes:
        walls: Seconds on the wall of each step.
        cpus: Seconds of processor time of each.
        waits: How often the process gave the processor up of its own accord.
    """

    walls: list[float]
    cpus: list[float]
    waits: int = 0

    @property
    def wall_ms(self) -> float:
        """The median step on the wall."""
        return 1e3 * statistics.median(self.walls)

    @property
    def processor_ms(self) -> float:
        """The lower quartile of the steps' processor time: being preempted costs some, for caches."""
        return 1e3 * statistics.quantiles(self.cpus, n=4, method="inclusive")[0]

    @property
    def share(self) -> float:
        """Processor time by time on the wall."""
        return sum(self.cpus) / max(sum(self.walls), 1e-9)

    @property
    def waiting(self) -> bool:
        """Whether the steps waited of their own accord, as for a device."""
        return self.waits >= len(self.walls)


@dataclass
class Watch:
    """Tells which turns were preempted: repeats of several systems, by name, one after the other.

    One thread that computes, instead of waiting for a device, gets all of a processor while it is
    undisturbed. Of any other system, the most that it ever got is what it gets undisturbed.

    Attributes:
        one_thread: Whether the systems compute on one thread.
        turns: How many there were.
        redone: The turns that were done again.
        corrected: The turns whose processor time counts, because they were preempted all the same.
    """

    one_thread: bool = False
    turns: int = 0
    redone: int = 0
    corrected: int = 0
    _best: dict[str, float] = field(default_factory=dict)
    _waiting: int = 0
    _preempted: int = 0

    def note(self, turn: Mapping[str, Repeat]) -> None:
        """Learns what the systems got in a turn."""
        for name, repeat in turn.items():
            self._best[name] = max(repeat.share, self._best.get(name, 0.0))
        self.turns += 1
        self._waiting += any(repeat.waiting for repeat in turn.values())
        self._preempted += self.preempted(turn)

    @property
    def worthwhile(self) -> bool:
        """Whether a preempted turn is worth doing again: not where most turns are preempted."""
        return self.turns < _FEW_TURNS or 2 * self._preempted <= self.turns

    def lost(self, turn: Mapping[str, Repeat]) -> float:
        """Returns the part of its processor time that the worst disturbed system lost; 0: none was."""
        least = min(self._part(name, repeat) for name, repeat in turn.items())
        return 0.0 if least >= _UNDISTURBED else 1 - least

    def preempted(self, turn: Mapping[str, Repeat]) -> bool:
        """Returns whether a system was disturbed in a turn."""
        return self.lost(turn) > 0

    def by_processor_time(self, turn: Mapping[str, Repeat]) -> bool:
        """Returns whether the processor time of a turn that counts is what its steps take undisturbed."""
        return self._computes and self.preempted(turn)

    @property
    def _computes(self) -> bool:
        return self.one_thread and 2 * self._waiting <= self.turns

    def _part(self, name: str, repeat: Repeat) -> float:
        undisturbed = 1.0 if self._computes else self._best[name]
        return repeat.share / undisturbed if undisturbed > 0 else 1.0
