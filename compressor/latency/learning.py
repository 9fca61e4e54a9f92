"""What measured plans teach about a latency table: a factor for the terms of each format.

A factor is 1 before anything is measured, give or take `_SPREAD`, and the time of a plan is right but for
`_NOISE`: the factors are those of least squares of both, which is Bayes' estimate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from lathe.artefact.plan import Plan
from lathe.compressor.latency.table import LatencyTable, features

_SPREAD, _NOISE = 0.05, 0.01


def learned(table: LatencyTable, measured: Mapping[Plan, float]) -> LatencyTable:
    """Returns a table whose terms have learnt from what plans really take.

    Args:
        table: As it was before any of it.
        measured: Milliseconds of plans.
    """
    formats = sorted({_format(term) for term in table.terms})
    shares = np.array([_shares(table, plan, formats) for plan in measured])
    missing = np.array([ms / table.predict(plan) - 1 for plan, ms in measured.items()])
    normal = shares.T @ shares + (_NOISE / _SPREAD) ** 2 * np.eye(len(formats))
    factors = dict(zip(formats, 1 + np.linalg.solve(normal, shares.T @ missing), strict=True))
    if min(factors.values()) <= 0:
        return table.corrected(float(np.median(1 + missing)))
    return replace(table, terms={t: ms * float(factors[_format(t)]) for t, ms in table.terms.items()})


def _shares(table: LatencyTable, plan: Plan, formats: list[str]) -> list[float]:
    """Returns the share of a plan's time that goes into each format."""
    parts = features(plan, table.tile, table.terms) * np.array(list(table.terms.values()))
    names = [_format(term) for term in table.terms]
    return [float(parts[[name == f for name in names]].sum() / parts.sum()) for f in formats]


def _format(term: str) -> str:
    """Returns the format that a term belongs to: its bits, or nothing."""
    return term.partition("@")[2]
