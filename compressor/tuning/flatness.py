"""How much the best trial is worth: the spread of the best, what each knob matters, and the noise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from lathe.compressor.tuning.space import TuningSpace
from lathe.compressor.tuning.study import Record

_SHARE = 0.1
_LEAST = 8
"""Trials below which nothing is said of the knobs."""


def complete(found: Sequence[Record]) -> list[Record]:
    """Returns the trials with a loss, each point once, the best first."""
    done = [r for r in found if r.state == "complete" and not r.repeated and r.loss is not None]
    return sorted(done, key=lambda r: (r.loss, r.number))


def spread_of_best(found: Sequence[Record]) -> dict[str, Any]:
    """Returns how far the best tenth of the complete trials, two at least, lies apart."""
    losses = [r.loss for r in complete(found) if r.loss is not None]
    best = losses[: max(2, math.ceil(_SHARE * len(losses)))]
    width = best[-1] - best[0]
    relative = width / abs(best[0]) if best[0] else None
    return {"trials": len(best), "nats": width, "share": relative, "unit": "nats per token"}


def importances(space: TuningSpace, found: Sequence[Record]) -> dict[str, float] | None:
    """Returns the share of the variance of the losses that each knob explains by itself.

    That is epsilon squared of a one-way analysis of variance, (SSB - (k - 1) MSW) / SST for k values of a
    knob: what k values would explain by chance does not count. Optuna's own measure (PED-ANOVA, of the best
    tenth) says little of some dozens of trials: findings/optuna-importance-of-few-trials-is-chance.sh.

    Returns:
        Shares from 0 to 1, which need not add up to 1; None where there are too few trials, or all have the
        same loss.
    """
    rows = [(r.point, r.loss) for r in complete(found) if r.point is not None and r.loss is not None]
    losses = np.array([loss for _, loss in rows])
    if len(rows) < _LEAST or not losses.std():
        return None
    whole = float(((losses - losses.mean()) ** 2).sum())
    return {
        name: _explained(np.array([point[at] for point, _ in rows]), losses) / whole
        for at, name in enumerate(space.values)
    }


def _explained(values: np.ndarray, losses: np.ndarray) -> float:
    """Returns the sum of squares that the values of a knob [n] explain beyond chance."""
    groups = [losses[values == value] for value in np.unique(values)]
    if len(groups) < 2 or len(groups) == len(losses):
        return 0.0
    between = sum(len(group) * (group.mean() - losses.mean()) ** 2 for group in groups)
    within = sum(((group - group.mean()) ** 2).sum() for group in groups)
    return max(0.0, float(between - (len(groups) - 1) * within / (len(losses) - len(groups))))


def gain_over_default(
    default: float, best: float, other_seeds: Sequence[tuple[float, float]]
) -> dict[str, Any]:
    """Returns the gain of the best trial over the default, and whether it stands out of the noise.

    The best of many is better than it seems to be, so the gain is taken of seeds that had no part in the
    choice. The noise is twice the standard deviation of the default's losses over all seeds.

    Args:
        default: The default's loss.
        best: The best trial's.
        other_seeds: (default's loss, the best's) of other seeds.
    """
    found: dict[str, Any] = {"chosen": default - best, "unit": "nats per token", "seeds": len(other_seeds)}
    if not other_seeds:
        return found | {"confirmed": None, "noise": None, "within_noise": best >= default}
    gain = statistics.fmean(theirs - ours for theirs, ours in other_seeds)
    noise = 2 * statistics.stdev([default, *(theirs for theirs, _ in other_seeds)])
    return found | {"confirmed": gain, "noise": noise, "within_noise": gain <= noise}
