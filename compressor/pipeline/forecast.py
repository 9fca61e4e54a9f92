"""The forecast of a run: the size and quality of its subnet, and the memory and time that it needs."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from lathe.compressor.calibration.amount import HELDOUT_SHARE
from lathe.compressor.compute.precision import has_bfloat16
from lathe.compressor.compute.progress import Progress
from lathe.compressor.pipeline.default_bits import rounds_by_default
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.pipeline.preflight import PreflightResult
from lathe.compressor.pipeline.reconstruct import block_tokens
from lathe.compressor.pipeline.round import HELDOUT_TOKENS, rounding_tokens
from lathe.compressor.reconstruction.kl_steps import MOST_TOKENS
from lathe.compressor.reconstruction.output_gradients import TOKENS
from lathe.compressor.search.evolution import has_attention
from lathe.compressor.search.knapsack import solve, total
from lathe.compressor.search.method import Problem
from lathe.compressor.search.space import Constraint, parameter_constraint

_LEFT_BY_RECONSTRUCTION = 0.25
"""The share of the sensitivities' sum that the final reconstruction may leave (0.25 to 0.6 on ref-7m and
stories260k)."""
_SEARCHING = 6.0
"""The cost of a run's search by the forecast's own."""
_COLLECTING, _SOLVING = (2.0, 1.3), (4.5, 2.6)
"""The cost of statistics, and of solving single blocks, in forward passes over the text that is read for it:
on hidden states of float32 products, and of bfloat16 ones."""
_GAUSS_NEWTON = 16.0
"""The cost of reconstructing single blocks with Gauss-Newton steps, likewise."""
_REFINING, _STEPPING = 22.0, 7.0
"""The cost of one round for the whole subnet, likewise: of conjugate gradients, and of steps on parts."""
_ROUNDING, _ROUNDED_COLUMN = (2.6, 1.9), 6.0
"""The cost of rounding layers, likewise, and of a column of the widest projection, in passes of a token."""
_GRADIENTS, _ROUNDED_ROWS = 3.0, 7.0
"""The cost of the gradients that few bits are rounded by, likewise; what they add to that of a column."""
_VERIFYING = 2.5
"""The cost of the checks at the end, in forward passes over the text that the artefact is evaluated on."""
_MEASURING = 30.0
"""The time for measuring as a multiple of that for dense and the smallest subnet."""
_ROWS = 4


def forecast(
    options: CompressOptions, preflight: PreflightResult, problem: Problem, sensitivities: np.ndarray
) -> dict[str, Any]:
    """Returns roughly the plan that the targets would lead to, and the memory and seconds of the run.

    The plan is one of widths alone; `rounds` says whether `compress` rounds weights by default, too.
    KL and perplexity are a band, from what the final reconstruction may leave to the sum of sensitivities.
    """
    shape = preflight.source.shape
    asked = replace(options, front=False) if options.target_memory is not None else options
    rounds = rounds_by_default(asked, preflight.source)
    plan = solve(preflight.space, sensitivities, [*preflight.constraints, *_latency(preflight)])
    needs = {"memory_bytes": preflight.memory.peak, "seconds": _seconds(options, preflight, problem)}
    if plan is None or not has_attention(plan):
        return {"needs": needs, "rounds": rounds, "plan": None}
    most = total(preflight.space, sensitivities, plan)
    least = _LEFT_BY_RECONSTRUCTION * most
    width = preflight.source.dtype.itemsize
    return {
        "needs": needs,
        "rounds": rounds,
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
    target, ends = preflight.provisional_target_ms, preflight.ends
    if target is None or ends is None:
        return []
    space, shape = preflight.space, preflight.source.shape
    if preflight.table:
        return [preflight.table.constraint(space, target)]
    least = shape.kept(space.smallest)
    share = (target - ends.floor) / max(ends.unpruned - ends.floor, 1e-9)
    return [parameter_constraint(space, shape, least + min(1.0, share) * (1 - least))]


def _seconds(options: CompressOptions, preflight: PreflightResult, problem: Problem) -> dict[str, float]:
    """Returns about how many seconds a run takes, and the least and most of them.

    They follow from the speed of a forward pass and from what the forecast itself took for text, ranking,
    sensitivities and timings. The range is that of the rounds in which the whole subnet is refined.
    """
    method, amount, spent = preflight.method, preflight.texts.calibration.amount, _spent(problem.progress)
    read, asked = amount.windows * amount.window, options.calibration_tokens
    token = _seconds_per_token(problem)
    rough = method.bfloat16 and has_bfloat16(options.where)
    collecting = _COLLECTING[rough]
    ranking = max(0.0, spent["calibrate and rank"] - collecting * token * read)
    fixed = ranking + _SEARCHING * spent["search"] + _MEASURING * spent["measure"]
    solved = min(asked, block_tokens(preflight.source.shape)) if method.on_samples else asked
    solving = _GAUSS_NEWTON if method.reconstruction == "gauss-newton" else _SOLVING[rough]
    stepping = _STEPPING * min(asked, MOST_TOKENS)
    refining = token * (stepping if method.in_steps else _REFINING * asked)
    evaluation = preflight.texts.evaluation
    judged = asked / HELDOUT_SHARE if evaluation is None else evaluation.numel()
    rounding = _rounding_passes(asked, preflight, rough) if options.quantizes else 0.0
    passes = token * (collecting * asked + solving * solved + rounding + _VERIFYING * judged)
    most = method.whole_rounds
    least = min(1, most)

    def seconds(rounds: float) -> float:
        writing = asked / read * spent["calibrate: the model writes"] * max(1.0, rounds)
        return fixed + passes + writing + rounds * refining

    return {"about": seconds((least + most) / 2), "least": seconds(least), "most": seconds(most)}


def _rounding_passes(asked: int, preflight: PreflightResult, rough: bool) -> float:
    """Returns the cost of rounding all layers, in forward passes of a token."""
    read = min(asked, rounding_tokens(preflight.source.shape)) + min(asked / HELDOUT_SHARE, HELDOUT_TOKENS)
    column, gradients = _ROUNDED_COLUMN, 0.0
    if preflight.method.by_gradients:
        column, gradients = column + _ROUNDED_ROWS, _GRADIENTS * min(asked, TOKENS)
    return _ROUNDING[rough] * read + gradients + column * preflight.source.shape.widest_output_projection


def _spent(progress: Progress) -> dict[str, float]:
    """Returns the seconds of the forecast's own stages, by how their titles begin."""
    begins = ("calibrate and rank", "calibrate: the model writes", "search", "measure")
    return {
        name: sum(seconds for title, seconds in progress.seconds.items() if title.startswith(name))
        for name in begins
    }


def _seconds_per_token(problem: Problem) -> float:
    """Returns the seconds of a forward pass, divided by its tokens."""
    tokens = problem.windows[:_ROWS]
    start = time.perf_counter()
    with torch.inference_mode():
        hidden = problem.embedding[tokens]
        for index, weights in enumerate(problem.layers):
            hidden = problem.runner.at(index).layer(weights, hidden)
        problem.head.logprobs(hidden)
    return (time.perf_counter() - start) / tokens.numel()
