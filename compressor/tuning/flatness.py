"""How much the best trial is worth: the spread of the best, what each knob matters, and the noise."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Sequence
from typing import Any

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


def importances(study: Any, found: Sequence[Record]) -> dict[str, float] | None:
    """Returns each knob's share in the differences between complete trials, by PED-ANOVA.

    Returns:
        Shares that add up to one; None where there are too few trials, or all have the same loss.
    """
    import optuna

    done = [r for r in complete(found) if r.point is not None]
    if len(done) < _LEAST or len({r.loss for r in done}) < 2:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        found_shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in found_shares.items()}


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
