"""One measurement: a few models loaded at a time, timed against a reference until ratios are precise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from lathe.compressor.compute.progress import Progress
from lathe.compressor.latency.backend import LatencyBackend
from lathe.compressor.latency.bench import Timing, take_turns
from lathe.compressor.latency.clock import Clock
from lathe.compressor.latency.comparison import Comparison
from lathe.compressor.latency.effort import Effort
from lathe.compressor.latency.preemption import Watch
from lathe.compressor.latency.ratio import paired_ratio
from lathe.compressor.latency.workload import Workload

GROUP = 3
"""How many models are loaded at a time, the reference among them."""
_FEWEST_LOADS = 2
"""Fewer tell nothing of the precision."""


class Timer(Protocol):
    """What is timed: the engine, the work, and the clocks."""

    @property
    def backend(self) -> LatencyBackend: ...
    @property
    def workload(self) -> Workload: ...
    @property
    def threads(self) -> int | None: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def progress(self) -> Progress: ...


@dataclass
class Session:
    """Times the groups of one measurement one after the other, within the seconds of its effort.

    Attributes:
        timer: What is timed.
        effort: How precisely.
        groups: How many groups there will be.
    """

    timer: Timer
    effort: Effort
    groups: int
    watch: Watch = field(init=False)
    _done: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.watch = Watch(one_thread=self.timer.threads == 1)
        self._start = self.timer.clock.wall()

    @property
    def seconds(self) -> float:
        """The time since the session began."""
        return self.timer.clock.wall() - self._start

    def group(self, directories: Sequence[Path]) -> list[Timing]:
        """Times models, the reference first, in as many loads as their ratios need."""
        effort, wall = self.effort, self.timer.clock.wall
        left = max(0.0, effort.seconds - self.seconds) / max(1, self.groups - self._done)
        end, total = wall() + left, [Timing() for _ in directories]
        for load in range(1, effort.most + 1):
            began = wall()
            total = [a + b for a, b in zip(total, self._load(directories), strict=True)]
            if load >= effort.loads and self._precise(total):
                break
            if load >= _FEWEST_LOADS and 2 * wall() - began > end:
                break
        self._done += 1
        return total

    def compared(self, dense: Timing, subnet: Timing) -> Comparison:
        """Returns two of the timings as a comparison, with what the session took so far."""
        return Comparison(dense, subnet, self.seconds, self.watch.redone, self.watch.corrected)

    def _precise(self, total: list[Timing]) -> bool:
        errors = (paired_ratio(timing, total[0]).standard_error for timing in total[1:])
        return max(errors, default=0.0) <= self.effort.precision

    def _load(self, directories: Sequence[Path]) -> list[Timing]:
        """Loads the models and times them; e2e is put together from a prefill and the decode steps."""
        parts = [(weight, self._turns(directories, metric)) for metric, weight in self._parts()]
        return [_sum([(weight, timings[i]) for weight, timings in parts]) for i in range(len(directories))]

    def _turns(self, directories: Sequence[Path], metric: str) -> list[Timing]:
        timer = self.timer
        workload = replace(timer.workload, metric=metric)
        steps = {
            f"{metric} {number} {directory}": timer.backend.prepare(directory, workload, timer.threads)
            for number, directory in enumerate(directories)
        }
        return list(take_turns(steps, watch=self.watch, clock=timer.clock).values())

    def _parts(self) -> list[tuple[str, float]]:
        """Returns (metric to time, how often it counts)."""
        workload = self.timer.workload
        if workload.metric == "e2e":
            return [("ttft", 1.0), ("tpot", workload.output_tokens - 1.0)]
        return [(workload.metric, 1.0)]


def _sum(parts: list[tuple[float, Timing]]) -> Timing:
    repeats = zip(*(timing.repeats for _, timing in parts), strict=True)
    weights = [weight for weight, _ in parts]
    return Timing(
        [sum(w * ms for w, ms in zip(weights, repeat, strict=True)) for repeat in repeats],
        [samples for _, timing in parts for samples in timing.samples],
    )
