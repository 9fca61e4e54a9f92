"""`lathe plan`: what the targets would lead to, and whether to prune, to quantize, or both.

Choices of equal weight bytes are evaluated on the model itself.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lathe.compressor.compute.progress import Progress
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.lm_head import DenseTargets
from lathe.compressor.model.stored_format import FLOAT16, FLOAT16_BYTES, INT4, INT8, Format
from lathe.compressor.pipeline.calibrate import calibrate
from lathe.compressor.pipeline.forecast import forecast
from lathe.compressor.pipeline.memory_estimate import memory_plan
from lathe.compressor.pipeline.open_run import open_run
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.pipeline.preflight import PreflightResult, run_preflight
from lathe.compressor.pipeline.search import Searcher
from lathe.compressor.search.block_library import BlockLibrary
from lathe.compressor.search.evolution import has_attention
from lathe.compressor.search.knapsack import solve
from lathe.compressor.search.method import Problem
from lathe.compressor.search.methods.lathe import PlanEvaluator, make_block_library, sensitivity_table
from lathe.compressor.search.space import parameter_constraint

_FORMATS = (FLOAT16, INT8, INT4)
_SHARES = (0.75, 0.4, 0.2)
_TOKENS, _TABLE_TOKENS, _EVALUATED_TOKENS = 16_384, 1024, 4096
_ROWS = 4


@dataclass(frozen=True)
class Choice:
    """One way to store the decoder in a budget.

    Attributes:
        format: How its weights are stored.
        keep: The share of its parameters that is kept, 1 for dense.
        bytes: The size of its weights.
        kl: KL(dense || this) in nats per token.
    """

    format: Format
    keep: float
    bytes: int
    kl: float

    @property
    def name(self) -> str:
        """The treatment of the model, in words."""
        if self.keep == 1:
            return "dense" if self.format == FLOAT16 else f"quantize: {self.format}"
        pruned = f"prune to {self.keep:.0%}"
        return pruned if self.format == FLOAT16 else f"{pruned}, quantize: {self.format}"

    def to_json(self) -> dict[str, Any]:
        """Returns the choice as the document has it."""
        return {
            "name": self.name,
            "format": str(self.format),
            "keep": self.keep,
            "decoder_bytes": self.bytes,
            "kl": self.kl,
        }


def advise(requested: CompressOptions, progress: Progress) -> dict[str, Any]:
    """Returns feasibility and forecast of the targets, and choices for several weight budgets, best first.

    KL is measured, on pruned layers after the closed-form reconstruction and on weights quantized as
    `--quantize` does it. `compress` does better than that, by its final reconstruction.

    Raises:
        UserError: the input is bad, or a target cannot be reached.
    """
    with tempfile.TemporaryDirectory() as scratch:
        tokens = min(requested.calibration_tokens, _TOKENS)
        options = replace(requested, out=Path(scratch) / "plan", calibration_tokens=tokens)
        preflight = run_preflight(options, progress)
        with open_run(options, preflight, progress) as context:
            problem = Searcher(context, calibrate(context)).problem([])
            advisor = _Advisor(preflight, problem)
            requested_preflight = replace(preflight, memory=memory_plan(requested, preflight.source))
            ahead = forecast(requested, requested_preflight, problem, advisor.sensitivities)
            budgets = _choices(advisor, progress)
    shape = preflight.source.shape
    parameters, decoder = shape.parameters(shape.dense_plan), shape.decoder_parameters(shape.dense_plan)
    return {
        "card": requested_preflight.to_json(),
        "forecast": ahead,
        "model": preflight.source.name,
        "parameters": parameters,
        "decoder_bytes_float16": FLOAT16_BYTES * decoder,
        "other_bytes_float16": FLOAT16_BYTES * (parameters - decoder),
        "unit": "KL(dense || choice) in nats per token",
        "text": options.calibration,
        "budgets": budgets,
    }


def _choices(advisor: _Advisor, progress: Progress) -> list[dict[str, Any]]:
    """Returns every budget with its choices, the best first."""
    budgets, rows = _budgets(advisor), []
    with progress.stage("plan: weights of equal size", len(budgets)) as bar:
        for name, size in budgets.items():
            choices = sorted(advisor.choices(size), key=lambda choice: choice.kl)
            rows.append({"budget": name, "bytes": size, "choices": [choice.to_json() for choice in choices]})
            bar.advance()
    return rows


def _budgets(advisor: _Advisor) -> dict[str, int]:
    """Returns decoder bytes by name, largest first: dense in each format, and shares of float16."""
    whole = advisor.dense(FLOAT16).bytes
    named = {f"{share:.0%} of float16": int(share * whole) for share in _SHARES}
    named |= {f"{form} dense": advisor.dense(form).bytes for form in (INT8, INT4)}
    return dict(sorted(named.items(), key=lambda item: -item[1]))


class _Advisor:
    """Evaluates pruned and quantized decoders against dense on held-out windows."""

    def __init__(self, preflight: PreflightResult, problem: Problem) -> None:
        self._preflight, self._problem = preflight, problem
        self._library: BlockLibrary = make_block_library(problem)
        self.sensitivities = sensitivity_table(
            problem, PlanEvaluator(problem, lambda _: self._library, tokens=(_TABLE_TOKENS,))
        )
        self._windows = problem.windows[: max(1, _EVALUATED_TOKENS // problem.windows.shape[1])]
        self._targets: DenseTargets = problem.head.targets(self._hidden(problem.layers))
        self._dense: dict[Format, Choice] = {}

    def choices(self, budget: int) -> list[Choice]:
        """Returns the largest decoder of each format that fits."""
        found = [self._choice(form, budget) for form in _FORMATS]
        return [choice for choice in found if choice is not None]

    def dense(self, form: Format) -> Choice:
        """Returns the dense decoder in a format."""
        if form not in self._dense:
            stored, size = form.store(self._problem.layers, self._preflight.source.dtype)
            self._dense[form] = Choice(form, 1.0, size, self._kl(stored))
        return self._dense[form]

    def _choice(self, form: Format, budget: int) -> Choice | None:
        dense = self.dense(form)
        if dense.bytes <= budget:
            return dense
        keep = budget / dense.bytes
        expected = dense.bytes / form.most_bytes(self._problem.layers)
        while (layers := self._prune(keep)) is not None:
            size = int(expected * form.most_bytes(layers))
            if size <= budget:
                stored, size = form.store(layers, self._preflight.source.dtype)
                if size <= budget:
                    return Choice(form, keep, size, self._kl(stored))
            keep *= min(0.99, budget / size)
        return None

    def _prune(self, keep: float) -> list[Weights] | None:
        """Returns the layers of the best decoder with a share of the parameters, if there is one."""
        space = self._preflight.space
        at = replace(
            self._problem, constraints=[parameter_constraint(space, self._preflight.source.shape, keep)]
        )
        if not at.allows(space.smallest):
            return None
        plan = solve(space, self.sensitivities, at.constraints)
        if plan is None or not has_attention(plan):
            return None
        return [
            {
                **self._library.block(i, "attention", (layer.query_heads, layer.kv_heads)),
                **self._library.block(i, "ffn", layer.width),
            }
            for i, layer in enumerate(plan)
        ]

    def _kl(self, layers: Sequence[Weights]) -> float:
        return self._problem.head.kl(self._targets, self._hidden(layers))

    @torch.inference_mode()
    def _hidden(self, layers: Sequence[Weights]) -> torch.Tensor:
        runner, parts = self._problem.runner, []
        for tokens in self._windows.split(_ROWS):
            hidden = self._problem.embedding[tokens]
            for index, weights in enumerate(layers):
                hidden = runner.at(index).layer(weights, hidden)
            parts.append(hidden)
        return torch.cat(parts)
