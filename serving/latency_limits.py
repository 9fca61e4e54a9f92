"""Limits of latency as people write them: `tpot=30ms,ttft=0.2s`."""

from __future__ import annotations

import re
from collections.abc import Collection

from lathe.artefact.errors import UserError

SECONDS = {"ms": 1e-3, "s": 1.0}
_LIMIT = re.compile(r"\s*(?P<name>[a-z0-9]+)\s*=\s*(?P<value>[0-9.]+)\s*(?P<unit>ms|s)\s*")


def parse_limits(text: str, measures: Collection[str]) -> dict[str, float]:
    """Reads the value of `--slo`; returns seconds by the name of a measure.

    Args:
        text: what was given.
        measures: the names that may be limited.

    Raises:
        UserError: it is written otherwise.
    """
    limits: dict[str, float] = {}
    for part in text.split(","):
        found = _LIMIT.fullmatch(part)
        if found is None or found["name"] not in measures or found["name"] in limits:
            raise UserError(f"--slo {text!r} is not a list of limits", _remedy(measures))
        limits[found["name"]] = _number(found["value"], text, measures) * SECONDS[found["unit"]]
    return limits


def _number(text: str, whole: str, measures: Collection[str]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if value <= 0:
        raise UserError(f"--slo {whole!r} has a limit that is no number above 0", _remedy(measures))
    return value


def _remedy(measures: Collection[str]) -> str:
    names = ", ".join(measures)
    return f"Write some of {names} with milliseconds or seconds, such as 'tpot=30ms,ttft=0.2s'."
