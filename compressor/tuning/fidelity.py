"""Two fidelities: which trials are worth their whole price.

A trial is first run on a share of its calibration tokens. It goes on to all of them if it is then among the
better half of all trials so far: one rung of asynchronous successive halving (Li et al., MLSys 2020, ASHA).
"""

from __future__ import annotations

from collections.abc import Collection

from lathe.compressor.calibration.amount import LEAST

SHARE = 4
"""The first run reads one in so many of a trial's calibration tokens."""
_FREE = 4
"""So many trials go on in any case: a half of fewer says little."""


def fewer_tokens(tokens: int) -> int | None:
    """Returns the calibration tokens of the first run; None where a trial has too few for two runs."""
    return tokens // SHARE if tokens >= SHARE * LEAST else None


def promising(loss: float, others: Collection[float]) -> bool:
    """Tells whether a first loss is among the better half of all first losses."""
    return len(others) < _FREE or sum(other < loss for other in others) * 2 < len(others) + 1
