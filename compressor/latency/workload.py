"""Workloads: the work whose latency is measured."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace

from lathe.artefact.errors import UserError

METRICS = {
    "tpot": "time per output token after the first: one decode step of the batch at the context",
    "ttft": "time to first token: prefill of `context` tokens for one request",
    "e2e": "time of a whole request: prefill of `context` tokens and every decode step after it",
}


@dataclass(frozen=True, slots=True)
class Workload:
    """The work whose latency is measured.

    Attributes:
        metric: a key of METRICS: tpot, ttft or e2e.
        context: tokens in the cache (tpot) or in the prompt (ttft, e2e).
        output_tokens: of a whole request (e2e).
    """

    metric: str = "tpot"
    batch_size: int = 1
    context: int = 512
    output_tokens: int = 128

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise UserError(
                f"there is no latency metric `{self.metric}`", f"Choose one of: {', '.join(METRICS)}."
            )
        if min(self.batch_size, self.context, self.output_tokens) < 1:
            raise UserError("batch size, context and output tokens must be at least 1")


FITTED_DEFAULTS = frozenset({"context", "output_tokens"})
"""Fields of a workload whose defaults are reduced to what a model has room for."""


def requested_workload(
    metric: str, batch_size: int, context: int | None, output_tokens: int | None
) -> tuple[Workload, frozenset[str]]:
    """A workload, and those of its `FITTED_DEFAULTS` fields that nobody asked for."""
    asked = {"context": context, "output_tokens": output_tokens}
    given = {name: value for name, value in asked.items() if value is not None}
    return Workload(metric, batch_size, **given), FITTED_DEFAULTS - given.keys()


def fitted(workload: Workload, positions: int, defaulted: Collection[str]) -> Workload:
    """Returns a workload that a model with so many positions can run.

    Args:
        workload: The workload asked for.
        positions: The longest context of the model.
        defaulted: Fields that nobody asked for, which are reduced to fit.

    Raises:
        UserError: a field that was asked for does not fit.
    """
    whole = workload.metric == "e2e"
    context, output = workload.context, workload.output_tokens
    if whole and "output_tokens" in defaulted:
        output = max(1, min(output, positions // 2 if "context" in defaulted else positions - context))
    room = positions - (output if whole else 1)
    if "context" in defaulted:
        context = max(1, min(context, room))
    if context > room:
        asked = f"--context {context}" + (f" with --output-tokens {output}" if whole else "")
        raise UserError(f"{asked} does not fit the model's {positions} positions", f"Give at most {room}.")
    return replace(workload, context=context, output_tokens=output)


def parse_milliseconds(text: str) -> float:
    """Parses `30ms`, `0.5s` or `250us` as milliseconds.

    Raises:
        UserError: no number, no unit, or not positive.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-zµ]*)\s*", text.lower())
    if not match:
        raise UserError(f"`{text}` is not a time", "Write it like 30ms, 0.5s or 250us.")
    value, unit = float(match[1]), match[2]
    factors = {"ms": 1.0, "s": 1000.0, "us": 1e-3, "µs": 1e-3}
    if unit not in factors:
        given = f"unit `{unit}` is unknown" if unit else "the unit is missing"
        raise UserError(f"`{text}`: {given}", f"Write it like {match[1]}ms, {match[1]}s or {match[1]}us.")
    if value <= 0:
        raise UserError(f"`{text}` is not a positive time")
    return value * factors[unit]


def parse_factor(text: str) -> float:
    """Parses `1.5x` or `1.5` as a factor of at least 1."""
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*x?\s*", text.lower())
    if not match or float(match[1]) < 1:
        raise UserError(f"`{text}` is not a speed-up", "Write it like 1.5x, at least 1x.")
    return float(match[1])


def parse_rate(text: str) -> float:
    """Parses `2000tok/s` or `2000` as tokens per second."""
    match = re.fullmatch(r"\s*([0-9]{0,15}\.?[0-9]{1,15})\s*(tok(ens)?/s)?\s*", text.lower())
    if not match or float(match[1]) <= 0:
        raise UserError(f"`{text}` is not a throughput", "Write it like 2000tok/s.")
    return float(match[1])


def parse_share(text: str) -> float:
    """Parses `80%` or `0.8` as a share in (0, 1]."""
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(%?)\s*", text)
    value = float(match[1]) / (100 if match[2] else 1) if match else 0.0
    if not 0 < value <= 1:
        raise UserError(f"`{text}` is not a share of the parameters", "Write it like 80% or 0.8.")
    return value
