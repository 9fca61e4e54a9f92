"""Whether an artefact meets its latency target, measured until noise does not decide it.

A wrong verdict costs a reconstruction, which takes minutes; a measurement takes seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from lathe.compressor.compute.progress import Progress
from lathe.compressor.latency.comparison import Comparison
from lathe.compressor.pipeline.options import CompressOptions

_CLEAR = 2.0
"""Standard errors between a measurement and the limit from which its verdict counts as clear."""
_TIMES = 3


def excess(options: CompressOptions, found: Comparison) -> float:
    """Returns by what share an artefact exceeds the limit of its latency target; minus infinity without one.

    The limit is the target with its tolerance; that of a speed-up is taken of the dense model beside it.
    """
    allowed = 1 + options.tolerance
    if options.speedup is not None:
        return found.ratio * options.speedup / allowed - 1
    if options.latency_limit_ms is not None:
        return found.subnet.median / (options.latency_limit_ms * allowed) - 1
    return -math.inf


def timed_until_clear(
    options: CompressOptions, time: Callable[[], Comparison], progress: Progress
) -> Comparison:
    """Times an artefact, and again while it is about as far from the limit as the measurement errs.

    All measurements count together, whichever side of the limit they are on.

    Args:
        options: Have the target.
        time: Times the artefact against dense.
        progress: Is told why it is timed again.
    """
    found = time()
    for _ in range(_TIMES - 1):
        over, error = excess(options, found), found.paired.standard_error
        if math.isinf(over) or abs(over) > _CLEAR * error:
            break
        side = "above" if over > 0 else "below"
        progress.say(
            f"  the artefact is {abs(over):.1%} {side} the limit, with a standard error of {error:.1%}: "
            "timing it again"
        )
        found += time()
    return found
