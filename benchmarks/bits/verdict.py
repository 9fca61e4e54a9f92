"""The verdict: whether any alternative is as fast as one of our points and has less loss, and the ratios."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from benchmarks.bits.rows import Row
from benchmarks.bits.variants import DENSE_INT4, REFERENCE, VARIANTS

CLEAR = 2.0
"""Standard errors of a difference of times from which it counts."""
FASTER = 1.5
"""The issue's factor over dense int4."""


@dataclass(frozen=True)
class Point:
    """A measured artefact.

    Attributes:
        name: Its variant and its target.
        variant: Its kind.
        family: The artefacts whose front it may lie on.
        ratio: Its time over that of the dense model in float32.
        error: The standard error of `ratio`, absolute.
        ms: Milliseconds at the speed of the machine when the dense model was timed.
        losses: Nats per token, window by window.
        increase: The mean loss less that of the dense model in float32.
        increase_error: The standard error of `increase`.
        size: Bytes of its weights.
    """

    name: str
    variant: str
    family: str
    ratio: float
    error: float
    ms: float
    losses: tuple[float, ...]
    increase: float
    increase_error: float
    size: int


Cost = Callable[[Point], float]


def time_of(point: Point) -> float:
    """Returns a point's time over that of the dense model in float32."""
    return point.ratio


def bytes_of(point: Point) -> float:
    """Returns the bytes of a point's weights."""
    return point.size


def points(rows: Iterable[Row]) -> list[Point]:
    """Returns the complete ones of one batch size's rows, the fastest first; none without the reference."""
    complete = [row for row in rows if row.complete]
    dense = next((row for row in complete if row.variant == REFERENCE), None)
    if dense is None:
        return []
    found = [_point(row, dense.time["ms"], dense.score["losses"]) for row in complete]
    return sorted(found, key=time_of)


def _point(row: Row, dense_ms: float, dense_losses: Sequence[float]) -> Point:
    ratio, losses = row.time["ratio"], row.score["losses"]
    increase, error = difference(losses, dense_losses)
    return Point(
        row.name,
        row.variant,
        row.kind.family,
        ratio,
        ratio * row.time["standard_error"],
        ratio * dense_ms,
        tuple(losses),
        increase,
        error,
        row.score["weight_bytes"],
    )


def difference(losses: Sequence[float], others: Sequence[float]) -> tuple[float, float]:
    """Returns the mean difference of losses on the same windows, and its standard error."""
    differences = [a - b for a, b in zip(losses, others, strict=True)]
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return statistics.fmean(differences), error


def best_within(candidates: Iterable[Point], cost: Cost, limit: float) -> Point | None:
    """Returns the point of least loss that costs at most `limit`."""
    allowed = [point for point in candidates if cost(point) <= limit]
    return min(allowed, key=lambda point: point.increase, default=None)


def front(candidates: Iterable[Point], cost: Cost) -> list[Point]:
    """Returns the points that no other one beats in both cost and loss, the cheapest first."""
    kept: list[Point] = []
    for point in sorted(candidates, key=lambda p: (cost(p), p.increase)):
        if not kept or point.increase < kept[-1].increase:
            kept.append(point)
    return kept


def interpolated(candidates: Iterable[Point], cost: Cost, at: float) -> float | None:
    """Returns the loss increase of a front at a cost, linear between its points; None below the cheapest."""
    along = front(candidates, cost)
    if not along or at < cost(along[0]):
        return None
    for low, high in pairwise(along):
        if at <= cost(high):
            share = (at - cost(low)) / (cost(high) - cost(low))
            return low.increase + share * (high.increase - low.increase)
    return along[-1].increase


def verdict(found: Sequence[Point]) -> dict[str, Any]:
    """Returns, for the points of one batch size, what beats each of ours, and the issue's ratios."""
    ours = [point for point in found if VARIANTS[point.variant].ours]
    others = [point for point in found if not VARIANTS[point.variant].ours]
    return {
        "points": [
            {"point": point.name, "better": better(point, others), "fronts": better_fronts(point, others)}
            for point in ours
        ],
        "ratios": ratios(ours, next((point for point in others if point.variant == DENSE_INT4), None)),
    }


def better(point: Point, others: Iterable[Point]) -> list[dict[str, Any]]:
    """Returns the alternatives that have less loss than a point and are not clearly slower."""
    rows = []
    for other in others:
        slower = other.ratio - point.ratio
        if other.increase >= point.increase or slower > CLEAR * math.hypot(point.error, other.error):
            continue
        loss, error = difference(other.losses, point.losses)
        rows.append(
            {
                "alternative": other.name,
                "at_least_as_fast": slower <= 0,
                "time": other.ratio / point.ratio,
                "loss_difference": loss,
                "loss_standard_error": error,
            }
        )
    return rows


def better_fronts(point: Point, others: Iterable[Point]) -> dict[str, float]:
    """Returns families whose loss increase, interpolated at a point's time, is less than the point's own."""
    families = defaultdict(list)
    for other in others:
        families[other.family].append(other)
    at = {family: interpolated(members, time_of, point.ratio) for family, members in families.items()}
    return {family: loss for family, loss in at.items() if loss is not None and loss < point.increase}


def ratios(ours: Sequence[Point], int4: Point | None) -> dict[str, Any] | None:
    """Returns our loss increase over that of dense int4: at its time, at `FASTER` of it, and at its bytes."""
    if int4 is None:
        return None
    return {
        "dense_int4_increase": int4.increase,
        "at_its_time": _against(ours, int4, time_of, int4.ratio),
        f"{FASTER:g}x_faster": _against(ours, int4, time_of, int4.ratio / FASTER),
        "at_its_bytes": _against(ours, int4, bytes_of, int4.size),
    }


def _against(ours: Sequence[Point], int4: Point, cost: Cost, limit: float) -> dict[str, Any] | None:
    best, between = best_within(ours, cost, limit), interpolated(ours, cost, limit)
    if best is None or between is None:
        return None
    return {
        "limit": limit,
        "point": best.name,
        "increase": best.increase,
        "ratio": best.increase / int4.increase,
        "interpolated_increase": between,
        "interpolated_ratio": between / int4.increase,
    }
