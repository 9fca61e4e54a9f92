"""The forecast of a run: the size and quality of its subnet, and the memory and time that it needs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lathe.artefact.plan import Plan
from lathe.compressor.calibration.amount import HELDOUT_SHARE
from lathe.compressor.compute.precision import has_bfloat16
from lathe.compressor.compute.progress import Progress
from lathe.compressor.latency.rough_table import RoughTable
from lathe.compressor.latency.table import LatencyTable
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.pipeline.preflight_result import PreflightResult
from lathe.compressor.pipeline.reconstruct import block_tokens
from lathe.compressor.pipeline.round import HELDOUT_TOKENS, rounding_tokens
from lathe.compressor.pipeline.served_memory import served_memory
from lathe.compressor.reconstruction.kl_steps import MOST_TOKENS
from lathe.compressor.reconstruction.output_gradients import TOKENS
from lathe.compressor.search.deep_plans import has_rival
from lathe.compressor.search.evolution import has_attention
from lathe.compressor.search.knapsack import solve, total
from lathe.compressor.search.method import Problem
from lathe.compressor.search.rounding_sensitivity import RoundingTable, priced
from lathe.compressor.search.space import Constraint

_LEFT_BY_RECONSTRUCTION = 0.25
"""The share of the sensitivities' sum that the final reconstruction may leave (0.25 to 0.6 on ref-7m and
stories260k)."""
_SEARCHING = 6.0
"""The cost of a run's search by the forecast's own."""
COLLECTING, SOLVING = (2.0, 1.3), (4.5, 2.6)
"""The cost of statistics, and of solving single blocks, in forward passes over the text that is read for it:
on hidden states of float32 products, and of bfloat16 ones."""
GAUSS_NEWTON = 16.0
"""The cost of reconstructing single blocks with Gauss-Newton steps, likewise."""
REFINING, STEPPING = 22.0, 7.0
"""The cost of one round for the whole subnet, likewise: of conjugate gradients, and of steps on parts."""
_ROUNDING, _ROUNDED_COLUMN = (2.6, 1.9), 6.0
"""The cost of rounding layers, likewise, and of a column of the widest projection, in passes of a token."""
_GRADIENTS, _ROUNDED_ROWS = 3.0, 7.0
"""The cost of the gradients that few bits are rounded by, likewise; what they add to that of a column."""
VERIFYING = 2.5
"""The cost of the checks at the end, in forward passes over the text that the artefact is evaluated on."""
_MEASURING = 30.0
"""The time for measuring as a multiple of that for dense and the smallest subnet."""
_ROWS = 4
_PRUNING, _ROUNDING_ALONE = "search: sensitivity of each block at", "search: sensitivity of each block to"
_TIMING = "measure: dense and the smallest"
"""How the titles of stages begin."""


@dataclass(frozen=True)
class Forecaster:
    """What forecasts are made of.

    Attributes:
        preflight: What is known before a weight is read.
        pruning: Object array [blocks] of [widths]: KL of each block pruned alone, nats per token.
        rounding: What rounding alone does, where the search chooses bits.
        latencies: Of plans on this machine; None where nothing is timed.
        size: Returns the bytes of a plan's weights: as served where the search chooses bits, else as stored.
    """

    preflight: PreflightResult
    pruning: np.ndarray
    size: Callable[[Plan], float]
    rounding: RoundingTable | None = None
    latencies: LatencyTable | RoughTable | None = None

    def best(self, constraints: list[Constraint]) -> Plan | None:
        """Returns the plan of least loss that meets constraints, if there is one with attention."""
        choices, table = self.preflight.choices, self.pruning
        if self.rounding:
            table = priced(self.rounding.joined(self.pruning), choices, constraints)
        plan = solve(choices, table, constraints)
        return plan if plan is not None and has_attention(plan) else None

    def facts(self, plan: Plan) -> dict[str, Any]:
        """Returns a plan with its sizes, and bands of its KL and perplexity.

        A band is from what the final reconstruction may leave of the sum of sensitivities to all of it; of
        rounding, which is compensated in the sensitivities already, all is left.
        """
        shape = self.preflight.source.shape
        pruned = total(self.preflight.space, self.pruning, plan.unrounded)
        rounded = self.rounding.of(plan) if self.rounding else 0.0
        least, most = _LEFT_BY_RECONSTRUCTION * pruned + rounded, pruned + rounded
        return {
            "plan": plan.to_json(),
            "predicted_ms": self.latencies.predict(plan) if self.latencies else None,
            "decoder_parameters_kept": shape.kept(plan),
            "weight_bytes": {
                "dense": round(self.size(shape.dense_plan)),
                "subnet": round(self.size(plan)),
            },
            "kl": {"least": least, "most": most, "unit": "nats per token"},
            "perplexity_factor": {"least": float(np.exp(least)), "most": float(np.exp(most))},
        }


def weight_bytes(options: CompressOptions, preflight: PreflightResult) -> Callable[[Plan], float]:
    """Returns what gives the bytes of a plan's weights, for a `Forecaster`."""
    source, mixed = preflight.source, preflight.mixed
    if mixed is None:
        return lambda plan: source.shape.weight_bytes(plan, source.dtype.itemsize)
    return served_memory(options, source, mixed).cost


def forecast(
    options: CompressOptions, preflight: PreflightResult, problem: Problem, forecaster: Forecaster
) -> dict[str, Any]:
    """Returns roughly the plan that the targets would lead to, and the memory and seconds of the run.

    `rounds` says whether the plan may have rounded weights.
    """
    plan = forecaster.best([*preflight.constraints, *_latency(preflight, forecaster)])
    finalists = 2 if plan is not None and has_rival(problem, plan) else 1
    seconds = _seconds(options, preflight, problem, finalists)
    needs = {"memory_bytes": preflight.memory.peak, "seconds": seconds}
    found = {"needs": needs, "rounds": preflight.mixed is not None}
    return found | (forecaster.facts(plan) if plan else {"plan": None})


def _latency(preflight: PreflightResult, forecaster: Forecaster) -> list[Constraint]:
    """Returns the latency target, if there is one."""
    target, latencies = preflight.provisional_target_ms, forecaster.latencies
    return [latencies.constraint(preflight.choices, target)] if target and latencies else []


def _seconds(
    options: CompressOptions, preflight: PreflightResult, problem: Problem, finalists: int
) -> dict[str, float]:
    """Returns about how many seconds a run takes, and the least and most of them.

    They follow from the speed of a forward pass and from what the forecast itself took for text, ranking,
    sensitivities and timings. The range is that of the rounds in which the whole subnet is refined. So many
    `finalists` are reconstructed layer by layer.
    """
    method, amount, spent = preflight.method, preflight.texts.calibration.amount, _spent(problem.progress)
    read, asked = amount.windows * amount.window, options.calibration_tokens
    token = _seconds_per_token(problem)
    rough = method.bfloat16 and has_bfloat16(options.where)
    collecting = COLLECTING[rough]
    ranking = max(0.0, spent["calibrate and rank"] - collecting * token * read)
    searching = _SEARCHING * spent[_PRUNING] + spent[_ROUNDING_ALONE]
    fixed = ranking + searching + _MEASURING * spent[_TIMING]
    solved = min(asked, block_tokens(preflight.source.shape)) if method.on_samples else asked
    solving = finalists * (GAUSS_NEWTON if method.reconstruction == "gauss-newton" else SOLVING[rough])
    stepping = STEPPING * min(asked, MOST_TOKENS)
    refining = token * (stepping if method.in_steps else REFINING * asked)
    evaluation = preflight.texts.evaluation
    judged = asked / HELDOUT_SHARE if evaluation is None else evaluation.numel()
    rounding = _rounding_passes(asked, preflight, rough) if options.quantizes else 0.0
    passes = token * (collecting * asked + solving * solved + rounding + VERIFYING * judged)
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
    begins = ("calibrate and rank", "calibrate: the model writes", _PRUNING, _ROUNDING_ALONE, _TIMING)
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
