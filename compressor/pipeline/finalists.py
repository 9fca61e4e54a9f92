"""The choice between plans by what the reconstruction makes of them."""

from __future__ import annotations

from collections.abc import Sequence

from lathe.compressor.pipeline.calibrate import CalibrationResult
from lathe.compressor.pipeline.latency_loop import Iteration
from lathe.compressor.pipeline.reconstruct import heldout_divergence, reconstruct_layers
from lathe.compressor.pipeline.run_context import RunContext
from lathe.compressor.search.method import SearchResult


def choose(context: RunContext, calibration: CalibrationResult, results: Sequence[SearchResult]) -> int:
    """Returns the number of the result with the least KL on held-out text after the layers' reconstruction.

    Only the layers of the best stay in the run directory.
    """
    names, harms = [], []
    for result in results:
        iteration = Iteration(result.plan, result.selections, result.fitness, result.evaluations)
        names.append(reconstruct_layers(context, calibration, iteration))
        harms.append(heldout_divergence(context, calibration, names[-1]))
    best = harms.index(min(harms))
    listed = " and ".join(f"{harm:.4f}" for harm in harms)
    context.progress.say(f"  plans reconstructed: KL {listed} on held-out text; number {best + 1} is taken")
    for number, name in enumerate(names):
        if number != best:
            context.run_dir.forget(f"reformed-{name}")
    return best
