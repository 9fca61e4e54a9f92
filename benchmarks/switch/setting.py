"""The limits and the ramp: given, or found from what dense model and smallest subnet do on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lathe.artefact.errors import UserError
from lathe.artefact.family import Family
from lathe.serving.loadtest.compare import run
from lathe.serving.loadtest.load import Load
from lathe.serving.loadtest.prompts import PromptChoice
from lathe.serving.loadtest.servers import served
from lathe.serving.loadtest.slo import Slo
from lathe.serving.loadtest.testbed import Setup

ALONE_REQUESTS, FULL_S = 8, 12.0
"""What is measured of a server: requests of one user, and seconds of as many users as it has slots."""
TPOT_TIMES, TTFT_TIMES = 3.0, 6.0
"""Limits, over what the dense model takes for one user."""
BEGIN, PAST = 0.3, 0.75
"""The ramp begins and ends at these shares of the requests/s with all slots in use, of dense and smallest."""


@dataclass(frozen=True)
class Sending:
    """What every request is like, and how models are served."""

    prompt_tokens: int
    output_tokens: int
    seed: int
    users: int
    serve_options: Sequence[str]

    @property
    def setup(self) -> Setup:
        return Setup(PromptChoice(tokens=self.prompt_tokens))

    def load(self, **how: Any) -> Load:
        """Returns a load of these requests."""
        return Load(output_tokens=self.output_tokens, seed=self.seed, **how)


@dataclass(frozen=True)
class Speed:
    """What a server does: medians of one user, and requests per second with all slots in use."""

    tpot_s: float
    ttft_s: float
    requests_per_second: float


def speed_of(family: Family, subnet: str, sending: Sending) -> Speed:
    """Serves a family and measures one of its subnets.

    Raises:
        UserError: it cannot be served, or fails.
    """
    alone_load = sending.load(concurrency=1, requests=ALONE_REQUESTS)
    full_load = sending.load(concurrency=sending.users, duration_s=FULL_S)
    with served(family.path, extra=sending.serve_options) as server:
        setup = replace(sending.setup, model=f"{server.model}:{subnet}")
        alone, full = (_of_server(server.url, load, setup) for load in (alone_load, full_load))
    tpot, ttft = (alone[name]["p50"] / 1e3 for name in ("tpot_ms", "ttft_ms"))
    return Speed(tpot, ttft, full["requests_per_second"])


def _of_server(url: str, load: Load, setup: Setup) -> dict[str, Any]:
    system: dict[str, Any] = run(url, load, setup=setup)["systems"]["server"]
    if not system["succeeded"] or system["tpot_ms"] is None:
        raise UserError(f"no answer of {url} could be timed", "See --output-tokens and --serve-options.")
    return system


def limits_of(dense: Speed) -> Slo:
    """Returns the limits for a dense model of that speed."""
    return Slo({"tpot": TPOT_TIMES * dense.tpot_s, "ttft": TTFT_TIMES * dense.ttft_s})


def rates_of(dense: Speed, smallest: Speed) -> tuple[float, float]:
    """Returns the requests per second at the beginning and the end of the ramp.

    Raises:
        UserError: no ramp is beyond the dense model and not beyond the smallest subnet.
    """
    end = PAST * smallest.requests_per_second
    if end < dense.requests_per_second:
        raise UserError(
            f"the smallest subnet answers {smallest.requests_per_second:.2f} requests/s and the dense model "
            f"{dense.requests_per_second:.2f}: no ramp is beyond one of them alone",
            "Take a faster subnet, or give --rates.",
        )
    return BEGIN * dense.requests_per_second, end
