"""The load of one test: how requests arrive, how many, and what each asks for."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from typing import Any, Literal

from lathe.artefact.errors import UserError
from lathe.serving.loadtest.trace import Trace

Endpoint = Literal["completions", "chat"]
Arrival = Literal["poisson", "constant"]


@dataclass(frozen=True)
class Load:
    """The requests of a round.

    Exactly one of `rate` (requests per second, open loop), `concurrency` (requests always in
    flight, closed loop) and `trace` (recorded requests, open loop) is set. With `ramp_to` the rate
    changes, or the concurrency grows, evenly to that within `duration_s`. A round ends after
    `requests` requests or `duration_s` seconds, whichever comes first, and with the trace; requests
    in flight are always finished. `warmup` requests per round are sent before it and not measured.

    Raises:
        UserError: the fields do not describe a load.
    """

    rate: float | None = None
    concurrency: int | None = None
    trace: Trace | None = None
    ramp_to: float | None = None
    arrival: Arrival = "poisson"
    requests: int | None = None
    duration_s: float | None = None
    warmup: int = 2
    output_tokens: int = 64
    endpoint: Endpoint = "completions"
    seed: int = 0
    timeout_s: float = 120.0

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.rate, self.concurrency, self.trace)) != 1:
            raise UserError(
                "A load is open-loop (a rate, or a trace) or closed-loop (a concurrency)",
                "Give one of --rate, --concurrency and --trace.",
            )
        if self.requests is None and self.duration_s is None and self.trace is None:
            raise UserError("The load has no end", "Give --requests, --duration or both.")
        _at_least(self.warmup, 0, "--warmup")
        for value, name in (
            (self.concurrency, "--concurrency"),
            (self.requests, "--requests"),
            (self.output_tokens, "--output-tokens"),
        ):
            _at_least(value, 1, name)
        for limit, name in (
            (self.rate, "--rate"),
            (self.ramp_to, "--ramp-to"),
            (self.duration_s, "--duration"),
            (self.timeout_s, "--timeout"),
        ):
            if limit is not None and not 0 < limit < float("inf"):
                raise UserError(f"{name} is {limit}", "It must be a number above 0.")
        if self.ramp_to is not None:
            self._check_ramp(self.ramp_to)

    def _check_ramp(self, to: float) -> None:
        if self.trace is not None or self.duration_s is None:
            raise UserError(
                "--ramp-to changes --rate or --concurrency within --duration", "Give those, or drop it."
            )
        if self.concurrency is not None and (to != int(to) or to <= self.concurrency):
            raise UserError(
                f"--ramp-to is {to:g}", f"Give a whole number above --concurrency {self.concurrency}."
            )

    def due_times(self, seed: int) -> Iterator[float] | None:
        """Returns the seconds after the start at which an open loop sends; None for a closed loop."""
        if self.trace is not None:
            return (recorded.at_s for recorded in self.trace.requests)
        if self.rate is not None:
            return arrival_times(self.rate, self.arrival, seed, self.ramp_to, self.duration_s or 1.0)
        return None

    def join_times(self) -> list[float]:
        """Returns the seconds after the start at which each user of a closed loop sends the first request.

        All of `concurrency` begin at once; with `ramp_to` the others follow, so that every number of users
        lasts equally long.
        """
        first = self.concurrency or 1
        more = int(self.ramp_to or first) - first
        return [0.0] * first + [(self.duration_s or 0.0) * i / (more + 1) for i in range(1, more + 1)]

    def answer_tokens(self, index: int) -> int:
        """Returns the tokens that the `index`-th request of a round (from 0) asks for."""
        return self.output_tokens if self.trace is None else self.trace.requests[index].output_tokens

    def as_json(self) -> dict[str, Any]:
        """Returns the fields that apply to this load."""
        fields = {key: value for key, value in vars(self).items() if value is not None}
        if self.trace is not None:
            fields["trace"] = self.trace.as_json()
            del fields["output_tokens"]
        if self.rate is None:
            del fields["arrival"]
        return fields


def _at_least(value: int | None, least: int, name: str) -> None:
    if value is not None and value < least:
        raise UserError(f"{name} is {value}", f"It must be at least {least}.")


def arrival_times(
    rate: float, arrival: Arrival, seed: int, ramp_to: float | None = None, ramp_s: float = 1.0
) -> Iterator[float]:
    """Yields arrival times in seconds, the first at 0, `rate` per second on average.

    Args:
        rate: arrivals per second, at the start.
        arrival: `poisson` draws independent exponential gaps; `constant` spaces them evenly.
        seed: the same seed gives the same gaps.
        ramp_to: the rate that is reached after `ramp_s` seconds. It changes evenly, and goes on changing;
            the times end where a falling rate reaches 0.
        ramp_s: seconds.
    """
    bend = 0.0 if ramp_to is None else (ramp_to - rate) / (2 * ramp_s)
    for expected in _unit_times(arrival, seed):
        # The time by which `expected` arrivals are due: expected = rate t + bend t^2.
        root = rate * rate + 4 * bend * expected
        if root < 0:
            return
        yield 2 * expected / (rate + sqrt(root))


def _unit_times(arrival: Arrival, seed: int) -> Iterator[float]:
    """Yields arrival times at one per second on average."""
    draw = random.Random(seed)
    now = 0.0
    while True:
        yield now
        now += draw.expovariate(1.0) if arrival == "poisson" else 1.0
