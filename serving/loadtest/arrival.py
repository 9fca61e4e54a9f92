"""When the requests of an open loop are sent."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Literal

Arrival = Literal["poisson", "constant"]


def arrival_times(rate: float, arrival: Arrival, seed: int) -> Iterator[float]:
    """Endless arrival times in seconds, the first at 0, `rate` per second on average.

    `poisson` draws independent exponential gaps (the same ones for the same seed); `constant`
    spaces them evenly.
    """
    if arrival == "constant":
        index = 0
        while True:
            yield index / rate
            index += 1
    draw = random.Random(seed)
    now = 0.0
    while True:
        yield now
        now += draw.expovariate(rate)
