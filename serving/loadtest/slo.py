"""Limits that each request should keep, and the share of requests that keeps them, with its interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from typing import Any

from lathe.artefact.errors import UserError
from lathe.serving.latency_limits import parse_limits
from lathe.serving.loadtest.measure import tpot_s
from lathe.serving.loadtest.sample import Sample

Z_95 = 1.959964
"""The normal quantile of a two-sided interval of 95 %."""

DEFINITIONS = {
    "within": "requests that succeeded and kept every limit of the SLO / requests judged",
    "interval": "Wilson's interval of 95 % for that share",
    "certain": "the interval lies on one side of the share that is asked for",
}


MEASURES: dict[str, Callable[[Sample], float]] = {
    "ttft": lambda sample: sample.chunk_s[0],
    "tpot": lambda sample: inf if sample.untimed else tpot_s(sample) or 0.0,
    "e2e": lambda sample: sample.chunk_s[-1],
}
"""The seconds that a successful request took, by the name of the limit."""


@dataclass(frozen=True)
class Slo:
    """Seconds that a request may take by `MEASURES`, and the share of requests that has to keep them all.

    An answer of one token keeps any limit of TPOT; one whose chunks cannot time its tokens keeps none.
    """

    limits_s: dict[str, float]
    share: float = 0.95

    def as_json(self) -> dict[str, Any]:
        limits = {f"{name}_ms": round(1e3 * limit, 6) for name, limit in self.limits_s.items()}
        return {**limits, "share": self.share}

    def broken(self, sample: Sample) -> list[str]:
        """Returns the limits that a request broke; all of them if it failed."""
        return [
            name for name, limit in self.limits_s.items() if not sample.ok or MEASURES[name](sample) > limit
        ]

    def evaluate(self, samples: Sequence[Sample]) -> Attainment:
        broken = [self.broken(sample) for sample in samples]
        within = {name: sum(name not in one for one in broken) for name in self.limits_s}
        return Attainment(len(samples), sum(not one for one in broken), within, self.share)


@dataclass(frozen=True)
class Attainment:
    """How many of the evaluated requests kept all limits, and how many each of them."""

    evaluated: int
    met: int
    met_each: dict[str, int]
    wanted: float

    @property
    def within(self) -> float:
        return self.met / self.evaluated if self.evaluated else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.met, self.evaluated)

    @property
    def passed(self) -> bool:
        return self.within >= self.wanted

    @property
    def certain(self) -> bool:
        low, high = self.interval
        return low >= self.wanted or high < self.wanted

    def as_json(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "certain": self.certain,
            "judged": self.evaluated,
            "within": round(self.within, 4),
            "interval": [round(bound, 4) for bound in self.interval],
            "within_each": {
                name: round(met / self.evaluated, 4) if self.evaluated else 0.0
                for name, met in self.met_each.items()
            },
        }


def wilson(met: int, evaluated: int) -> tuple[float, float]:
    """Returns Wilson's score interval of 95 % for a share of `met` in `evaluated`."""
    if not evaluated:
        return 0.0, 1.0
    share, z2 = met / evaluated, Z_95**2
    middle = share + z2 / (2 * evaluated)
    reach = Z_95 * sqrt(share * (1 - share) / evaluated + z2 / (4 * evaluated * evaluated))
    scale = 1 + z2 / evaluated
    return max(0.0, (middle - reach) / scale), min(1.0, (middle + reach) / scale)


def parse_slo(text: str, share: str = "95%") -> Slo:
    """Reads an SLO such as `tpot=30ms,ttft=0.2s`, and the share of requests that has to keep it (`95%`).

    Raises:
        UserError: either is written otherwise.
    """
    return Slo(parse_limits(text, MEASURES), _share(share))


def _share(text: str) -> float:
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise UserError(f"--slo-share is {text}", "Give a share of the requests, such as 95% or 0.95.")
    return value
