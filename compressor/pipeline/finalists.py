"""The choice between plans by what the reconstruction makes of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lathe.compressor.pipeline.calibrate import CalibrationResult
from lathe.compressor.pipeline.latency_loop import Iteration
from lathe.compressor.pipeline.reconstruct import heldout_divergence, reconstruct_layers
from lathe.compressor.pipeline.run_context import RunContext
from lathe.compressor.search.method import SearchResult

_NOISE = 4.0
"""The share by which a later result may have more KL, times the root of the number of held-out tokens."""


def choose(context: RunContext, calibration: CalibrationResult, results: Sequence[SearchResult]) -> int:
    """Returns the number of the result that held-out text finds best after the layers' reconstruction.

    That is the last one whose KL is not clearly above the least: on little text two KLs differ by chance.
    Only its layers stay in the run directory.
    """
    names, harms = [], []
    for result in results:
        iteration = Iteration(result.plan, result.selections, result.fitness, result.evaluations)
        names.append(reconstruct_layers(context, calibration, iteration))
        harms.append(heldout_divergence(context, calibration, names[-1]))
    tokens = int(calibration.heldout.sum()) * calibration.windows.shape[1]
    tie = _NOISE / math.sqrt(tokens)
    best = max(number for number, harm in enumerate(harms) if harm <= (1 + tie) * min(harms))
    listed = " and ".join(f"{harm:.4f}" for harm in harms)
    alike = f", as {tokens:,} tokens do not tell KLs apart that differ by less than {tie:.0%}"
    why = "" if harms[best] == min(harms) else alike
    context.progress.say(
        f"  plans reconstructed: KL {listed} on held-out text; number {best + 1} is taken{why}"
    )
    for number, name in enumerate(names):
        if number != best:
            context.run_dir.forget(f"reformed-{name}")
    return best
