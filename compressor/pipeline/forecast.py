"""What a run would give and need, before it is made: size, quality band, memory and time."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from lathe.compressor.pipeline.options import Options
from lathe.compressor.pipeline.preflight import PreflightResult
from lathe.compressor.search.evolution import has_attention
from lathe.compressor.search.knapsack import solve, total
from lathe.compressor.search.method import Problem
from lathe.compressor.search.space import Constraint, parameter_constraint

_LEFT_BY_REFORM = 0.25
"""The share of the damages' sum that the last reform may leave (0.25 to 0.6 on ref-7m and stories260k)."""
_FORWARDS = (45.0, 110.0)
"""Forward passes over the calibration text that a run costs: one round over the whole subnet, or three."""
_ROWS = 4


def forecast(options: Options, card: PreflightResult, task: Problem, damage: np.ndarray) -> dict[str, Any]:
    """The plan that the targets would lead to, roughly: its size, and KL and perplexity as a band from what
    the last reform may leave to the plain sum of damages; memory and seconds of the run.
    """
    shape = card.source.shape
    plan = solve(card.space, damage, [*card.constraints, *_latency(card)])
    needs = {"memory_bytes": card.memory.peak, "seconds": _seconds(options, task)}
    if plan is None or not has_attention(plan):
        return {"needs": needs, "plan": None}
    worst = total(card.space, damage, plan)
    width = card.source.dtype.itemsize
    return {
        "needs": needs,
        "plan": plan.to_json(),
        "decoder_parameters_kept": shape.kept(plan),
        "weight_bytes": {
            "dense": shape.weight_bytes(shape.dense_plan, width),
            "subnet": shape.weight_bytes(plan, width),
        },
        "kl": {"least": _LEFT_BY_REFORM * worst, "most": worst, "unit": "nats per token"},
        "perplexity_factor": {"least": float(np.exp(_LEFT_BY_REFORM * worst)), "most": float(np.exp(worst))},
    }


def _latency(card: PreflightResult) -> list[Constraint]:
    """The latency target: by the profile's table, else as a share of parameters between floor and dense."""
    if card.target_ms is None or card.dense_ms is None or card.floor_ms is None:
        return []
    if card.table:
        return [card.table.constraint(card.space, card.target_ms)]
    least = card.source.shape.kept(card.space.smallest)
    share = (card.target_ms - card.floor_ms) / max(card.dense_ms - card.floor_ms, 1e-9)
    return [parameter_constraint(card.space, card.source.shape, least + min(1.0, share) * (1 - least))]


def _seconds(options: Options, task: Problem) -> dict[str, float]:
    """From the speed of one forward pass here."""
    tokens = task.windows[:_ROWS]
    start = time.perf_counter()
    with torch.inference_mode():
        hidden = task.embedding[tokens]
        for index, weights in enumerate(task.layers):
            hidden = task.runner.at(index).layer(weights, hidden)
        task.head.logprobs(hidden)
    once = (time.perf_counter() - start) / tokens.numel() * options.calibration_tokens
    return dict(zip(("least", "most"), (factor * once for factor in _FORWARDS), strict=True))
