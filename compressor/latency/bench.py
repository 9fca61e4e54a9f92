"""Interleaved timing: systems take turns in alternating order, so that drift slows all of them alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lathe.compressor.latency.clock import SYSTEM, Clock
from lathe.compressor.latency.preemption import Repeat, Watch

Step = Callable[[], None]
_MIN_STEPS = 3
_SETTLE_SECONDS = 0.15
_REPEAT_SECONDS = 0.15


@dataclass
class Timing:
    """Milliseconds of one system: of each repeat a typical step, and the raw samples behind them."""

    repeats: list[float] = field(default_factory=list)
    samples: list[list[float]] = field(default_factory=list)

    def __add__(self, other: Timing) -> Timing:
        return Timing(self.repeats + other.repeats, self.samples + other.samples)

    @property
    def median(self) -> float:
        return statistics.median(self.repeats)

    @property
    def spread(self) -> float:
        """The distance of the quartiles over the median: how busy the machine was, or how much it drifted."""
        low, _, high = statistics.quantiles(self.repeats, n=4)
        return (high - low) / self.median


def take_turns(
    systems: Mapping[str, Step], *, watch: Watch | None = None, clock: Clock = SYSTEM
) -> dict[str, Timing]:
    """Times each system once, in an order that alternates from call to call of one watch.

    The first steps of a repeat are not measured: for about 0.1 s after another model ran, steps are slower
    (docs/experiments.md). A turn in which another process took the processor away is done again, once, and
    not where that was in vain before; the one that lost least of it counts.

    Args:
        systems: The steps of each.
        watch: What is known of these systems from earlier calls.
        clock: What is read.
    """
    watch = Watch() if watch is None else watch
    turn = _turn(systems, watch, clock)
    if watch.preempted(turn) and watch.worthwhile:
        turn = min(turn, _turn(systems, watch, clock), key=watch.lost)
        watch.redone += 1
    corrected = watch.by_processor_time(turn)
    watch.corrected += corrected
    return {
        name: Timing(
            [repeat.processor_ms if corrected else repeat.wall_ms], [[1e3 * wall for wall in repeat.walls]]
        )
        for name, repeat in turn.items()
    }


def _turn(systems: Mapping[str, Step], watch: Watch, clock: Clock) -> dict[str, Repeat]:
    names = list(systems)[:: -1 if watch.turns % 2 else 1]
    repeats = {name: _repeat(systems[name], clock) for name in names}
    turn = {name: repeats[name] for name in systems}
    watch.note(turn)
    return turn


def _repeat(step: Step, clock: Clock) -> Repeat:
    _steps(step, _SETTLE_SECONDS, clock)
    waits = clock.waits()
    walls, cpus = _steps(step, _REPEAT_SECONDS, clock)
    return Repeat(walls, cpus, clock.waits() - waits)


def _steps(step: Step, seconds: float, clock: Clock) -> tuple[list[float], list[float]]:
    """Returns wall and processor seconds of steps that fill a time, at least `_MIN_STEPS` of them."""
    walls: list[float] = []
    cpus: list[float] = []
    deadline = clock.wall() + seconds
    while len(walls) < _MIN_STEPS or clock.wall() < deadline:
        cpu, wall = clock.cpu(), clock.wall()
        step()
        walls.append(clock.wall() - wall)
        cpus.append(clock.cpu() - cpu)
    return walls, cpus
