"""Interleaved timing: systems are repeated in alternating order, so that drift slows all of them alike."""

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
    """Milliseconds of one system: the median of each repeat, and the raw samples behind them."""

    repeats: list[float] = field(default_factory=list)
    samples: list[list[float]] = field(default_factory=list)

    def __add__(self, other: Timing) -> Timing:
        return Timing(self.repeats + other.repeats, self.samples + other.samples)

    @property
    def median(self) -> float:
        return statistics.median(self.repeats)

    @property
    def spread(self) -> float:
        """The distance of the quartiles over the median, which tells how busy the machine was."""
        low, _, high = statistics.quantiles(self.repeats, n=4)
        return (high - low) / self.median


def interleave(
    systems: Mapping[str, Step], *, repeats: int, advance: Callable[[], None] = lambda: None
) -> dict[str, Timing]:
    """Times each system `repeats` times, in alternating order.

    The first steps of a repeat are not measured: for about 0.1 s after another model ran, steps are slower
    (docs/experiments.md).
    """
    timings = {name: Timing() for name in systems}
    names = list(systems)
    for repeat in range(repeats):
        for name in names if repeat % 2 == 0 else reversed(names):
            samples = _repeat(systems[name])
            timings[name].samples.append(samples)
            timings[name].repeats.append(statistics.median(samples))
            advance()
    return timings


def _repeat(step: Step) -> list[float]:
    _steps(step, _SETTLE_SECONDS)
    return _steps(step, _REPEAT_SECONDS)


def _steps(step: Step, seconds: float) -> list[float]:
    """Returns the milliseconds of steps that fill a time, at least `_MIN_STEPS` of them."""
    samples: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(samples) < _MIN_STEPS or time.perf_counter() < deadline:
        start = time.perf_counter()
        step()
        samples.append((time.perf_counter() - start) * 1e3)
    return samples


def uncertainty(timing: Timing, reference: Timing, repeats: int) -> float:
    """Returns the relative standard error of timing / reference.

    It is computed from the medians of loads, each of so many repeats, because the repeats of one load share
    the effect of loading the model (docs/experiments.md).
    """
    ratios = [a / b for a, b in zip(timing.repeats, reference.repeats, strict=True)]
    loads = [statistics.median(ratios[i : i + repeats]) for i in range(0, len(ratios), repeats)]
    if len(loads) < 2:
        return float("inf")
    return statistics.stdev(loads) / len(loads) ** 0.5 / statistics.median(loads)


def seconds_per_repeat(step: Step) -> float:
    """Returns about how long a repeat takes."""
    step()
    start = time.perf_counter()
    step()
    once = time.perf_counter() - start
    return max(_SETTLE_SECONDS, _MIN_STEPS * once) + max(_REPEAT_SECONDS, _MIN_STEPS * once)


def paired_ratio(timing: Timing, reference: Timing) -> float:
    """Returns the median over repeats of timing / reference, in which drift between repeats cancels."""
    return statistics.median(a / b for a, b in zip(timing.repeats, reference.repeats, strict=True))
