"""The load of one test: how requests arrive, how many, and what each asks for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from lathe.artefact.errors import UserError
from lathe.serving.loadtest.arrival import Arrival, arrival_times
from lathe.serving.loadtest.trace import Trace

Endpoint = Literal["completions", "chat"]


@dataclass(frozen=True)
class Load:
    """What is sent in every round.

    Exactly one of `rate` (requests per second, open loop), `concurrency` (requests always in
    flight, closed loop) and `trace` (recorded requests, open loop) is set. With `ramp_to` the rate
    changes, or the concurrency grows, evenly to that within `duration_s`. A round ends after
    `requests` requests or `duration_s` seconds, whichever comes first, and with the trace; requests
    in flight are always finished. `warmup` requests per round are sent before it and not measured.

    Raises:
        UserError: if the fields do not describe a load.
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
        """Seconds after the start at which the requests of an open loop are sent; None for a closed one."""
        if self.trace is not None:
            return (recorded.at_s for recorded in self.trace.requests)
        if self.rate is not None:
            return arrival_times(self.rate, self.arrival, seed, self.ramp_to, self.duration_s or 1.0)
        return None

    def join_times(self) -> list[float]:
        """Seconds after the start at which each user of a closed loop sends the first request: all of
        `concurrency` at once; with `ramp_to` the others so that every number of users lasts equally long.
        """
        first = self.concurrency or 1
        more = int(self.ramp_to or first) - first
        return [0.0] * first + [(self.duration_s or 0.0) * i / (more + 1) for i in range(1, more + 1)]

    def answer_tokens(self, index: int) -> int:
        """Tokens that the `index`-th request of a round (from 0) asks for."""
        return self.output_tokens if self.trace is None else self.trace.requests[index].output_tokens

    def as_json(self) -> dict[str, Any]:
        """The fields that apply to this load."""
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
