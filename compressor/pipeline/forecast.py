"""The forecast of a run: the size and quality of its subnet, and the memory and time that it needs."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.pipeline.preflight import PreflightResult
from lathe.compressor.search.evolution import has_attention
from lathe.compressor.search.knapsack import solve, total
from lathe.compressor.search.method import Problem
from lathe.compressor.search.space import Constraint, parameter_constraint

_LEFT_BY_RECONSTRUCTION = 0.25
"""The share of the sensitivities' sum that the final reconstruction may leave (0.25 to 0.6 on ref-7m and
stories260k)."""
_FORWARDS = (45.0, 110.0)
"""The cost of a run in forward passes over the calibration text, with one or three whole-model rounds."""
_ROWS = 4


def forecast(
    options: CompressOptions, preflight: PreflightResult, problem: Problem, sensitivities: np.ndarray
) -> dict[str, Any]:
    """Returns roughly the plan that the targets would lead to, and the memory and seconds of the run.

    KL and perplexity are a band, from what the final reconstruction may leave to the sum of sensitivities.
    """
    shape = preflight.source.shape
    plan = solve(preflight.space, sensitivities, [*preflight.constraints, *_latency(preflight)])
    needs = {"memory_bytes": preflight.memory.peak, "seconds": _seconds(options, problem)}
    if plan is None or not has_attention(plan):
        return {"needs": needs, "plan": None}
    most = total(preflight.space, sensitivities, plan)
    least = _LEFT_BY_RECONSTRUCTION * most
    width = preflight.source.dtype.itemsize
    return {
        "needs": needs,
        "plan": plan.to_json(),
        "decoder_parameters_kept": shape.kept(plan),
        "weight_bytes": {
            "dense": shape.weight_bytes(shape.dense_plan, width),
            "subnet": shape.weight_bytes(plan, width),
        },
        "kl": {"least": least, "most": most, "unit": "nats per token"},
        "perplexity_factor": {"least": float(np.exp(least)), "most": float(np.exp(most))},
    }


def _latency(preflight: PreflightResult) -> list[Constraint]:
    """Returns the latency target: by the profile's table, else as a share of the decoder's parameters."""
    target, dense, floor = preflight.provisional_target_ms, preflight.dense_ms, preflight.floor_ms
    if target is None or dense is None or floor is None:
        return []
    space, shape = preflight.space, preflight.source.shape
    if preflight.table:
        return [preflight.table.constraint(space, target)]
    least = shape.kept(space.smallest)
    share = (target - floor) / max(dense - floor, 1e-9)
    return [parameter_constraint(space, shape, least + min(1.0, share) * (1 - least))]


def _seconds(options: CompressOptions, problem: Problem) -> dict[str, float]:
    """Returns the least and most seconds of a run, by the speed of one forward pass here."""
    tokens = problem.windows[:_ROWS]
    start = time.perf_counter()
    with torch.inference_mode():
        hidden = problem.embedding[tokens]
        for index, weights in enumerate(problem.layers):
            hidden = problem.runner.at(index).layer(weights, hidden)
        problem.head.logprobs(hidden)
    once = (time.perf_counter() - start) / tokens.numel() * options.calibration_tokens
    return dict(zip(("least", "most"), (factor * once for factor in _FORWARDS), strict=True))
