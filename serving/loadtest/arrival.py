"""When the requests of an open loop are sent."""

from __future__ import annotations

import random
from collections.abc import Iterator
from math import sqrt
from typing import Literal

Arrival = Literal["poisson", "constant"]


def arrival_times(
    rate: float, arrival: Arrival, seed: int, ramp_to: float | None = None, ramp_s: float = 1.0
) -> Iterator[float]:
    """Arrival times in seconds, the first at 0, `rate` per second on average.

    `poisson` draws independent exponential gaps (the same ones for the same seed); `constant`
    spaces them evenly. With `ramp_to` the rate changes evenly to that within `ramp_s` seconds, and on
    beyond: the times end where a falling rate reaches 0, and never end otherwise.
    """
    bend = 0.0 if ramp_to is None else (ramp_to - rate) / (2 * ramp_s)
    for expected in _unit_times(arrival, seed):
        # The time by which `expected` arrivals are due: expected = rate t + bend t^2.
        root = rate * rate + 4 * bend * expected
        if root < 0:
            return
        yield 2 * expected / (rate + sqrt(root))


def _unit_times(arrival: Arrival, seed: int) -> Iterator[float]:
    """Arrival times at one per second."""
    draw = random.Random(seed)
    now = 0.0
    while True:
        yield now
        now += draw.expovariate(1.0) if arrival == "poisson" else 1.0
