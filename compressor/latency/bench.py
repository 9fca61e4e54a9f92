"""Interleaved timing: systems take turns, so that a machine that drifts slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Step = Callable[[], None]
_MIN_STEPS = 3
_SETTLE_SECONDS = 0.15
_REPEAT_SECONDS = 0.15


@dataclass
class Timing:
    """Milliseconds of one system: a median per turn, and the raw samples behind them."""

    turns: list[float] = field(default_factory=list)
    samples: list[list[float]] = field(default_factory=list)

    def __add__(self, other: Timing) -> Timing:
        return Timing(self.turns + other.turns, self.samples + other.samples)

    @property
    def median(self) -> float:
        return statistics.median(self.turns)

    @property
    def spread(self) -> float:
        """Distance of the quartiles over the median: how unquiet the machine was."""
        low, _, high = statistics.quantiles(self.turns, n=4)
        return (high - low) / self.median


def interleave(
    systems: Mapping[str, Step], *, turns: int, advance: Callable[[], None] = lambda: None
) -> dict[str, Timing]:
    """Times each system `turns` times, in alternating order.

    A repeat begins unmeasured: for about 0.1 s after another model ran, steps are slower than they then stay
    (docs/experiments.md).
    """
    timings = {name: Timing() for name in systems}
    names = list(systems)
    for turn in range(turns):
        for name in names if turn % 2 == 0 else reversed(names):
            samples = _repeat(systems[name])
            timings[name].samples.append(samples)
            timings[name].turns.append(statistics.median(samples))
            advance()
    return timings


def _repeat(step: Step) -> list[float]:
    _steps(step, _SETTLE_SECONDS)
    return _steps(step, _REPEAT_SECONDS)


def _steps(step: Step, seconds: float) -> list[float]:
    """Milliseconds of steps that fill a time, at least `_MIN_STEPS` of them."""
    samples: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(samples) < _MIN_STEPS or time.perf_counter() < deadline:
        start = time.perf_counter()
        step()
        samples.append((time.perf_counter() - start) * 1e3)
    return samples


def uncertainty(timing: Timing, reference: Timing, turns: int) -> float:
    """Returns the relative standard error of timing / reference.

    It is computed from the medians of loads with `turns` repeats each, because the repeats of one load share
    the effect of loading the model (docs/experiments.md).
    """
    ratios = [a / b for a, b in zip(timing.turns, reference.turns, strict=True)]
    sessions = [statistics.median(ratios[i : i + turns]) for i in range(0, len(ratios), turns)]
    if len(sessions) < 2:
        return float("inf")
    return statistics.stdev(sessions) / len(sessions) ** 0.5 / statistics.median(sessions)


def seconds_per_repeat(step: Step) -> float:
    """About how long a turn takes."""
    step()
    start = time.perf_counter()
    step()
    once = time.perf_counter() - start
    return max(_SETTLE_SECONDS, _MIN_STEPS * once) + max(_REPEAT_SECONDS, _MIN_STEPS * once)


def paired_ratio(timing: Timing, reference: Timing) -> float:
    """Median over turns of timing / reference: drift between turns cancels."""
    return statistics.median(a / b for a, b in zip(timing.turns, reference.turns, strict=True))
