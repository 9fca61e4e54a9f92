"""Turns and ratios: what all models share cancels, what others disturb is noticed, outliers do not count."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import pytest

from lathe.compressor.latency.bench import Timing, take_turns
from lathe.compressor.latency.clock import Clock
from lathe.compressor.latency.preemption import Watch
from lathe.compressor.latency.ratio import paired_ratio

A, B = 8.0, 3.0
"""Milliseconds of two systems."""


class Processor:
    """A processor whose clock goes on while steps compute.

    Attributes:
        stolen: The share of it that another process has, by seconds on the wall.
        names: Of the systems whose steps were done.
    """

    def __init__(self, threads: int = 1, waits: int = 0) -> None:
        self.stolen: Callable[[float], float] = lambda _: 0.0
        self.names: list[str] = []
        self.wall = self._cpu = 0.0
        self._threads, self._waits = threads, waits
        self.clock = Clock(lambda: self.wall, lambda: self._cpu, lambda: self._waits * len(self.names))

    def turn(self, watch: Watch) -> dict[str, float]:
        systems = {"a": self._system("a", A), "b": self._system("b", B)}
        timings = take_turns(systems, watch=watch, clock=self.clock)
        assert all(len(timing.samples[0]) >= 3 for timing in timings.values())
        return {name: timing.median for name, timing in timings.items()}

    def _system(self, name: str, milliseconds: float) -> Callable[[], None]:
        def step() -> None:
            self.names.append(name)
            self.wall += milliseconds / 1e3 / (1 - self.stolen(self.wall))
            self._cpu += milliseconds / 1e3 * self._threads

        return step


def test_systems_take_turns_in_alternating_order() -> None:
    processor, watch = Processor(), Watch()
    for _ in range(4):
        processor.turn(watch)
    names = processor.names
    order = [name for i, name in enumerate(names) if i == 0 or names[i - 1] != name]
    assert order == list("ababa")


@pytest.mark.parametrize("threads", [1, 2])
def test_a_preempted_turn_is_done_again_and_the_undisturbed_one_counts(threads: int) -> None:
    processor, watch = Processor(threads), Watch(one_thread=threads == 1)
    processor.turn(watch)
    end = processor.wall + 0.5
    processor.stolen = lambda wall: 0.6 if wall < end else 0.0
    assert processor.turn(watch) == pytest.approx({"a": A, "b": B})
    assert (watch.turns, watch.redone, watch.corrected) == (3, 1, 0)


def test_on_a_processor_that_stays_shared_processor_time_counts_and_few_turns_are_done_again() -> None:
    processor, watch = Processor(), Watch(one_thread=True)
    processor.stolen = lambda wall: 0.4 + 0.3 * math.sin(7 * wall)
    for _ in range(10):
        assert processor.turn(watch) == pytest.approx({"a": A, "b": B})
    assert watch.corrected == 10
    assert watch.redone <= 2


def test_of_several_threads_the_turn_that_lost_least_counts_by_the_wall() -> None:
    processor, watch = Processor(threads=2), Watch()
    processor.turn(watch)
    start = processor.wall
    processor.stolen = lambda wall: 0.6 if wall < start + 0.5 else 0.2
    assert processor.turn(watch) == pytest.approx({"a": A / 0.8, "b": B / 0.8})
    assert (watch.redone, watch.corrected) == (1, 0)


def test_waiting_for_a_device_is_not_being_preempted() -> None:
    processor, watch = Processor(waits=2), Watch(one_thread=True)
    processor.stolen = lambda _: 0.7
    for _ in range(3):
        assert processor.turn(watch) == pytest.approx({"a": A / 0.3, "b": B / 0.3})
    assert (watch.redone, watch.corrected) == (0, 0)


def test_a_drift_that_both_share_cancels() -> None:
    drift = [1.0, 1.1, 3.0, 5.0, 0.7]
    found = paired_ratio(Timing([4 * d for d in drift]), Timing([10 * d for d in drift]))
    assert found.value == pytest.approx(0.4)
    assert found.standard_error == pytest.approx(0, abs=1e-9)
    assert Timing([5.0] * 9).spread == 0 < Timing(drift).spread


def test_the_standard_error_is_that_of_the_mean_of_loads() -> None:
    ratios = [0.50, 0.52, 0.49, 0.53, 0.51]
    found = paired_ratio(Timing([10 * ratio for ratio in ratios]), Timing([10.0] * 5))
    assert found.value == pytest.approx(0.51)
    assert found.standard_error == pytest.approx(statistics.stdev(ratios) / math.sqrt(5) / 0.51)
    assert (found.loads, found.dropped) == (5, 0)
    assert paired_ratio(Timing([5.0]), Timing([10.0])).standard_error == math.inf


def test_a_load_far_from_the_others_does_not_count_and_no_more_than_a_quarter_are_dropped() -> None:
    usual = [0.50, 0.51, 0.49, 0.50, 0.505, 0.495]
    found = paired_ratio(Timing([*usual, 0.9]), Timing([1.0] * 7))
    assert (found.value, found.dropped) == (pytest.approx(0.5), 1)
    noisy = paired_ratio(Timing([*usual, 0.9, 0.8, 0.7]), Timing([1.0] * 9))
    assert noisy.dropped == 2
    few = paired_ratio(Timing([0.5, 0.5, 0.9]), Timing([1.0] * 3))
    assert (few.dropped, few.value) == (0, pytest.approx(1.9 / 3))
