"""`lathe plan`: what the targets would lead to, and whether to prune, to quantize, or both.

Choices of equal weight bytes are evaluated on the model itself.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lathe.artefact.plan import BlockKind, Plan
from lathe.compressor.compute.progress import Progress
from lathe.compressor.latency.rough_table import RoughTable, dense_in_formats
from lathe.compressor.latency.table import LatencyTable
from lathe.compressor.model.checkpoint import Checkpoint, open_checkpoint
from lathe.compressor.model.stored_format import FLOAT16, FLOAT16_BYTES, INT4, INT8, Format
from lathe.compressor.pipeline.calibrate import calibrate
from lathe.compressor.pipeline.default_bits import may_round
from lathe.compressor.pipeline.forecast import Forecaster, forecast, weight_bytes
from lathe.compressor.pipeline.memory_estimate import memory_plan
from lathe.compressor.pipeline.mixtures import mixtures
from lathe.compressor.pipeline.open_run import open_run
from lathe.compressor.pipeline.option_values import AUTO_BITS
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.pipeline.preflight import run_preflight
from lathe.compressor.pipeline.preflight_result import PreflightResult
from lathe.compressor.pipeline.search import Searcher
from lathe.compressor.pipeline.stored_choices import Candidate, Choice, ChoiceEvaluator
from lathe.compressor.search.block_library import BlockLibrary
from lathe.compressor.search.evolution import has_attention
from lathe.compressor.search.knapsack import solve
from lathe.compressor.search.method import Problem
from lathe.compressor.search.plan_evaluator import PlanEvaluator
from lathe.compressor.search.rounding_sensitivity import rounding_table
from lathe.compressor.search.sensitivity_table import sensitivity_table
from lathe.compressor.search.space import Level, parameter_constraint

_FORMATS = (FLOAT16, INT8, INT4)
_SHARES = (0.75, 0.4, 0.2)
_LEAST_TOKENS, _MOST_TOKENS = 4096, 16_384
_TOKENS_BY_WIDTH = 2
"""Calibration tokens for each input channel of the widest projection, within these bounds."""
_EVALUATED_TOKENS = 512
_DAMPINGS = (1e-3,)
"""That of the ranking: a forecast does not look for the best one."""
_MEASURED = 3
"""Levels of a block whose sensitivities are evaluated."""


def advise(requested: CompressOptions, progress: Progress) -> dict[str, Any]:
    """Returns feasibility and forecast of the targets, and what to choose: mixtures, or for weight budgets.

    Where bits are searched and latencies are known, that is a mixture of widths and bits for each of several
    speed-ups, a forecast. Elsewhere it is choices for several weight budgets, the best first, whose KL is
    measured: on pruned layers after the closed-form reconstruction and on weights quantized as `--quantize`
    does it. `compress` does better than that, by its final reconstruction.

    Raises:
        UserError: the input is bad, or a target cannot be reached.
    """
    source = open_checkpoint(requested.model)
    if requested.runs and may_round(requested, source):
        requested = replace(requested, bits=AUTO_BITS)
    with tempfile.TemporaryDirectory() as scratch:
        tokens = _tokens(requested, source)
        options = replace(requested, out=Path(scratch) / "plan", calibration_tokens=tokens)
        preflight = run_preflight(options, progress)
        with open_run(options, preflight, progress) as context:
            problem = Searcher(context, calibrate(context, _DAMPINGS)).problem([])
            advisor = _Advisor(preflight, problem)
            requested_preflight = replace(preflight, memory=memory_plan(requested, preflight.source))
            forecaster = advisor.forecaster(requested)
            ahead = forecast(requested, requested_preflight, problem, forecaster)
            mixed = mixtures(forecaster)
            budgets = [] if mixed else _choices(advisor)
    shape = preflight.source.shape
    parameters, decoder = shape.parameters(shape.dense_plan), shape.decoder_parameters(shape.dense_plan)
    return {
        "card": requested_preflight.to_json(),
        "forecast": ahead,
        "mixtures": mixed,
        "model": preflight.source.name,
        "parameters": parameters,
        "decoder_bytes_float16": FLOAT16_BYTES * decoder,
        "other_bytes_float16": FLOAT16_BYTES * (parameters - decoder),
        "unit": "KL(dense || choice) in nats per token",
        "text": options.calibration,
        "budgets": budgets,
    }


def _tokens(requested: CompressOptions, source: Checkpoint) -> int:
    """Returns the number of calibration tokens to read: enough to fit the widest projection."""
    width = source.shape.widest_output_projection
    tokens = min(max(_LEAST_TOKENS, _TOKENS_BY_WIDTH * width), _MOST_TOKENS)
    return min(requested.calibration_tokens, tokens)


def _choices(advisor: _Advisor) -> list[dict[str, Any]]:
    """Returns every budget with its choices, the best first."""
    budgets = _budgets(advisor)
    found = advisor.choices(budgets)
    return [
        {
            "budget": name,
            "bytes": size,
            "choices": [choice.to_json() for choice in sorted(found[name], key=lambda choice: choice.kl)],
        }
        for name, size in budgets.items()
    ]


def _budgets(advisor: _Advisor) -> dict[str, int]:
    """Returns decoder bytes by name, largest first: dense in each format, and shares of float16."""
    whole = advisor.dense[FLOAT16].bytes
    named = {f"{share:.0%} of float16": int(share * whole) for share in _SHARES}
    named |= {f"{form} dense": advisor.dense[form].bytes for form in (INT8, INT4)}
    return dict(sorted(named.items(), key=lambda item: -item[1]))


class _Advisor:
    """Finds and evaluates pruned and quantized decoders, against dense on held-out windows.

    Attributes:
        sensitivities: The table of every block at every level.
        rounding: What rounding alone does, where the search chooses bits.
    """

    def __init__(self, preflight: PreflightResult, problem: Problem) -> None:
        self._preflight, self._problem = preflight, problem
        shape = problem.source.shape
        dense = (shape, problem.layers, problem.rankings)
        self._unsolved = BlockLibrary(*dense, most_bytes=0)
        self._sizes: dict[tuple[Format, BlockKind, Level], int] = {}
        library = BlockLibrary(*dense, problem.statistics, problem.dampings, most_bytes=0)
        evaluator = PlanEvaluator(problem, lambda _: library, tokens=(_EVALUATED_TOKENS,))
        self.sensitivities = sensitivity_table(problem, evaluator, _MEASURED)
        self.rounding = rounding_table(problem, evaluator.stage(0)) if preflight.mixed else None
        self._evaluate = ChoiceEvaluator(problem, library, evaluator.stage(0))

    @cached_property
    def dense(self) -> dict[Format, Choice]:
        """The dense decoder in each format."""
        whole = self._evaluated("plan: whole decoders", [Candidate(form) for form in _FORMATS])
        return dict(zip(_FORMATS, whole, strict=True))

    @cached_property
    def _scales(self) -> dict[Format, float]:
        layers = self._problem.layers
        return {form: self.dense[form].bytes / form.most_bytes(layers) for form in _FORMATS}

    def forecaster(self, options: CompressOptions) -> Forecaster:
        """Returns what makes forecasts; times the dense model in each format that plans may have."""
        preflight = self._preflight
        latencies: LatencyTable | RoughTable | None = preflight.table
        if latencies is None and preflight.ends is not None:
            bits = preflight.mixed.bits if preflight.mixed else ()
            timed = dense_in_formats(preflight.benchmark, bits)
            latencies = RoughTable.of(
                preflight.source.shape, preflight.ends, preflight.choices.smallest, timed
            )
        size = weight_bytes(options, preflight)
        return Forecaster(preflight, self.sensitivities, size, self.rounding, latencies)

    def choices(self, budgets: Mapping[str, int]) -> dict[str, list[Choice]]:
        """Returns the largest decoder of each format that fits, by budget."""
        found = {
            name: [dense for dense in self.dense.values() if dense.bytes <= budget]
            for name, budget in budgets.items()
        }
        wanted = [
            (name, self._pruned(form, budget, budget / dense.bytes))
            for name, budget in budgets.items()
            for form, dense in self.dense.items()
            if dense.bytes > budget
        ]
        while asked := [(name, candidate) for name, candidate in wanted if candidate is not None]:
            wanted = []
            done = self._evaluated("plan: pruned decoders", [candidate for _, candidate in asked])
            for (name, candidate), choice in zip(asked, done, strict=True):
                budget = budgets[name]
                if choice.bytes <= budget:
                    found[name].append(choice)
                else:
                    keep = candidate.keep * min(0.99, budget / choice.bytes)
                    wanted.append((name, self._pruned(candidate.form, budget, keep)))
        return found

    def _evaluated(self, title: str, candidates: Sequence[Candidate]) -> list[Choice]:
        with self._problem.progress.stage(title, len(self._problem.layers)) as bar:
            return self._evaluate(candidates, bar.advance)

    def _pruned(self, form: Format, budget: int, keep: float) -> Candidate | None:
        """Returns the best decoder in a format with this share of the parameters, or less, if one may fit."""
        while (plan := self._plan(keep)) is not None:
            size = self._scales[form] * self._most_bytes(form, plan)
            if size <= budget:
                return Candidate(form, keep, plan)
            keep *= min(0.99, budget / size)
        return None

    def _most_bytes(self, form: Format, plan: Plan) -> int:
        """Returns the most bytes that a plan can have in a format."""
        return sum(
            self._block_bytes(form, "attention", (layer.query_heads, layer.kv_heads))
            + self._block_bytes(form, "ffn", layer.width)
            for layer in plan
        )

    def _block_bytes(self, form: Format, kind: BlockKind, level: Level) -> int:
        """Returns the most bytes of a block at a level, which is the same in every layer."""
        key = (form, kind, level)
        if key not in self._sizes:
            self._sizes[key] = form.most_bytes([self._unsolved.block(0, kind, level)])
        return self._sizes[key]

    def _plan(self, keep: float) -> Plan | None:
        """Returns the best plan with a share of the parameters, if there is one."""
        space = self._preflight.space
        at = replace(
            self._problem, constraints=[parameter_constraint(space, self._preflight.source.shape, keep)]
        )
        if not at.allows(space.smallest):
            return None
        plan = solve(space, self.sensitivities, at.constraints)
        return plan if plan is not None and has_attention(plan) else None
