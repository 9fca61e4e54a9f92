"""The load of one test: how requests arrive, how many, and what each asks for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from compressor.errors import UserError

from .arrival import Arrival

Endpoint = Literal["completions", "chat"]


@dataclass(frozen=True)
class Load:
    """What is sent in every round.

    Exactly one of `rate` (requests per second, open loop) and `concurrency` (requests always in
    flight, closed loop) is set. A round ends after `requests` requests or `duration_s` seconds,
    whichever comes first; requests in flight are always finished. `warmup` requests per round are
    sent before it and not measured.

    Raises:
        UserError: if the fields do not describe a load.
    """

    rate: float | None = None
    concurrency: int | None = None
    arrival: Arrival = "poisson"
    requests: int | None = None
    duration_s: float | None = None
    warmup: int = 2
    output_tokens: int = 64
    endpoint: Endpoint = "completions"
    seed: int = 0
    timeout_s: float = 120.0

    def __post_init__(self) -> None:
        if (self.rate is None) == (self.concurrency is None):
            raise UserError(
                "A load is either open-loop (a rate) or closed-loop (a concurrency)",
                "Give one of --rate and --concurrency.",
            )
        if self.requests is None and self.duration_s is None:
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
            (self.duration_s, "--duration"),
            (self.timeout_s, "--timeout"),
        ):
            if limit is not None and not 0 < limit < float("inf"):
                raise UserError(f"{name} is {limit}", "It must be a number above 0.")

    def as_json(self) -> dict[str, Any]:
        """The fields that apply to this load."""
        fields = {key: value for key, value in asdict(self).items() if value is not None}
        if self.rate is None:
            del fields["arrival"]
        return fields


def _at_least(value: int | None, least: int, name: str) -> None:
    if value is not None and value < least:
        raise UserError(f"{name} is {value}", f"It must be at least {least}.")
