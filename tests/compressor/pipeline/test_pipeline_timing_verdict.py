"""An artefact near its limit is timed again before the verdict; one far from it is not."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from lathe.compressor.compute.progress import Progress
from lathe.compressor.latency.bench import Timing
from lathe.compressor.latency.comparison import Comparison
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.pipeline.timing_verdict import excess, timed_until_clear


def options(**target: float) -> CompressOptions:
    return CompressOptions(model="model", out=Path("out"), tolerance=0.02, **target)  # type: ignore[arg-type]


def measured(*milliseconds: float) -> Comparison:
    """Of a dense model that takes 10 ms."""
    return Comparison(Timing([10.0] * len(milliseconds)), Timing(list(milliseconds)), seconds=20, redone=1)


def timed(measurements: list[Comparison], **target: float) -> tuple[Comparison, int]:
    """Returns what was found, and how many measurements it took."""
    left = iter(measurements)
    found = timed_until_clear(options(**target), lambda: next(left), Progress(quiet=True))
    return found, len(measurements) - len(list(left))


def test_the_limit_is_the_target_and_its_tolerance() -> None:
    found = measured(5.1, 5.1)
    assert excess(options(target_speedup=2.0), found) == pytest.approx(0)
    assert excess(options(target_latency_ms=4.0), found) == pytest.approx(0.25)
    assert excess(options(keep=0.5), found) == -math.inf


@pytest.mark.parametrize("milliseconds", [(6.0, 6.1, 6.05), (4.5, 4.4, 4.45)])
def test_a_clear_verdict_takes_one_measurement(milliseconds: tuple[float, ...]) -> None:
    found, count = timed([measured(*milliseconds)] * 3, target_speedup=2.0)
    assert (count, found.seconds) == (1, 20)


def test_a_noisy_miss_that_was_none_is_found_out() -> None:
    noisy, steady = measured(5.0, 5.6, 5.2), measured(4.95, 4.96, 4.94, 4.95, 4.95, 4.96)
    found, count = timed([noisy, steady, steady], target_speedup=2.0)
    assert excess(options(target_speedup=2.0), noisy) > 0
    assert excess(options(target_speedup=2.0), found) < 0
    assert count > 1
    assert found.subnet.repeats == noisy.subnet.repeats + steady.subnet.repeats * (count - 1)
    assert (found.seconds, found.redone) == (20 * count, count)


def test_a_noisy_hit_is_timed_again_as_well() -> None:
    found, count = timed([measured(4.8, 5.3, 5.0), measured(5.4, 5.5, 5.45)] * 2, target_speedup=2.0)
    assert count > 1
    assert excess(options(target_speedup=2.0), found) > 0


def test_what_stays_unclear_ends_after_three_measurements() -> None:
    _, count = timed([measured(4.6, 5.6, 5.1)] * 5, target_speedup=2.0)
    assert count == 3
