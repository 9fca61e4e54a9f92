"""What paired repeats say of the ratio of two models' times, and how precisely."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from lathe.compressor.latency.bench import Timing

_ENOUGH = 4
_FAR, _TO_DEVIATION, _LEAST = 4.0, 1.4826, 0.005


@dataclass(frozen=True)
class Ratio:
    """The ratio of a model's time to that of the reference.

    Attributes:
        value: The mean over loads.
        standard_error: Of the mean, relative to it; infinite after one load.
        loads: The number of loads that count.
        dropped: The number that do not, as outliers.
    """

    value: float
    standard_error: float
    loads: int
    dropped: int = 0


def paired_ratio(timing: Timing, reference: Timing) -> Ratio:
    """Returns the ratio of two models that took turns, in which what slows both alike cancels.

    There is one repeat for each time that the models were loaded: more would share the effect of loading
    (docs/experiments.md). Of four loads or more, those are dropped that are further from the median than 4
    standard deviations, as the median of the distances has them (1.4826 times that, at least 0.5 % of the
    median); never more than a quarter, the furthest first.
    """
    loads = [a / b for a, b in zip(timing.repeats, reference.repeats, strict=True)]
    kept = _without_outliers(loads)
    value = statistics.fmean(kept)
    error = statistics.stdev(kept) / math.sqrt(len(kept)) / value if len(kept) > 1 else math.inf
    return Ratio(value, error, len(kept), len(loads) - len(kept))


def _without_outliers(loads: list[float]) -> list[float]:
    if len(loads) < _ENOUGH:
        return loads
    middle = statistics.median(loads)
    deviation = _TO_DEVIATION * statistics.median(abs(load - middle) for load in loads)
    allowed = _FAR * max(deviation, _LEAST * middle)
    nearest = sorted(loads, key=lambda load: abs(load - middle))
    certain = len(loads) - len(loads) // _ENOUGH
    return nearest[:certain] + [load for load in nearest[certain:] if abs(load - middle) <= allowed]
