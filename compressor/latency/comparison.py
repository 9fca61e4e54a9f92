"""Two models that were timed side by side."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from lathe.artefact.report_format import LatencyPrecision
from lathe.compressor.latency.bench import Timing
from lathe.compressor.latency.ratio import Ratio, paired_ratio


@dataclass(frozen=True)
class Comparison:
    """Milliseconds of a model and of the reference, the dense model, which took turns.

    Attributes:
        dense: The repeats of the reference.
        subnet: Those of the model.
        seconds: How long the whole measurement took.
        redone: The turns in it that were preempted and done again.
        corrected: Those whose processor time counts, because they were preempted all the same.
    """

    dense: Timing
    subnet: Timing
    seconds: float = 0.0
    redone: int = 0
    corrected: int = 0

    def __add__(self, other: Comparison) -> Comparison:
        """Returns both measurements of the same two models as one."""
        return Comparison(
            self.dense + other.dense,
            self.subnet + other.subnet,
            self.seconds + other.seconds,
            self.redone + other.redone,
            self.corrected + other.corrected,
        )

    @property
    def paired(self) -> Ratio:
        """The ratio of the model's time to the reference's, and its precision."""
        return paired_ratio(self.subnet, self.dense)

    @property
    def ratio(self) -> float:
        return self.paired.value

    @property
    def precision(self) -> LatencyPrecision:
        """How far the ratio can be trusted."""
        return precision_of([self])


def precision_of(comparisons: Sequence[Comparison]) -> LatencyPrecision:
    """Returns the precision of a measurement, and what it took."""
    ratios, last = [comparison.paired for comparison in comparisons], comparisons[-1]
    errors = [ratio.standard_error for ratio in ratios]
    known = all(map(math.isfinite, errors))
    return {
        "standard_error": statistics.median(errors) if known else None,
        "largest_standard_error": max(errors) if known else None,
        "loads": sum(ratio.loads + ratio.dropped for ratio in ratios),
        "outliers": sum(ratio.dropped for ratio in ratios),
        "preempted": last.redone,
        "corrected": last.corrected,
        "seconds": round(last.seconds, 3),
    }
