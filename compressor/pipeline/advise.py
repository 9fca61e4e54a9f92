"""The dry run: what the targets would lead to, and when to cut, when to quantize, when both, from choices of
equal weight bytes, judged on the model itself.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lathe.compressor.compute.progress import Progress
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.lm_head import DenseTargets
from lathe.compressor.model.stored_format import FLOAT16, FLOAT16_BYTES, INT4, INT8, Format
from lathe.compressor.pipeline.calibrate import prepare
from lathe.compressor.pipeline.forecast import forecast
from lathe.compressor.pipeline.memory_estimate import memory_plan
from lathe.compressor.pipeline.options import Options
from lathe.compressor.pipeline.preflight import PreflightResult, preflight
from lathe.compressor.pipeline.run_directory import RunDirectory
from lathe.compressor.pipeline.search import Searcher
from lathe.compressor.search.block_library import BlockLibrary
from lathe.compressor.search.evolution import has_attention
from lathe.compressor.search.knapsack import solve
from lathe.compressor.search.method import Problem
from lathe.compressor.search.methods.lathe import PlanEvaluator, make_block_library, sensitivity_table
from lathe.compressor.search.space import parameter_constraint

_FORMATS = (FLOAT16, INT8, INT4)
_SHARES = (0.75, 0.4, 0.2)
_TOKENS, _TABLE_TOKENS, _JUDGED_TOKENS = 16_384, 1024, 4096
_ROWS = 4


@dataclass(frozen=True)
class Choice:
    """One way to store the decoder in a budget. keep: share of its parameters, 1 for dense. kl: KL(dense ||
    this) in nats per token.
    """

    format: Format
    keep: float
    bytes: int
    kl: float

    @property
    def name(self) -> str:
        if self.keep == 1:
            return "dense" if self.format == FLOAT16 else f"quantize: {self.format}"
        cut = f"cut to {self.keep:.0%}"
        return cut if self.format == FLOAT16 else f"{cut}, quantize: {self.format}"

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "format": str(self.format),
            "keep": self.keep,
            "decoder_bytes": self.bytes,
            "kl": self.kl,
        }


def advise(asked: Options, progress: Progress) -> dict[str, Any]:
    """Feasibility and forecast of the targets, and choices for several weight budgets, the best of each
    first, as one JSON document.

    KL is measured: cut layers with the closed-form reform, weights quantized as `--quantize` does it.
    `compress` does better than these cuts, by its last reform.

    Raises:
        UserError: as `preflight`.
    """
    with tempfile.TemporaryDirectory() as scratch:
        tokens = min(asked.calibration_tokens, _TOKENS)
        options = replace(asked, out=Path(scratch) / "plan", calibration_tokens=tokens)
        card = preflight(options, progress)
        with closing(RunDirectory(options.out)) as run:
            prepared = prepare(options, card, run, progress)
            task = Searcher(options, card, prepared, run, progress).problem([])
            advisor = _Advisor(card, task)
            told = replace(card, memory=memory_plan(asked, card.source))
            ahead = forecast(asked, told, task, advisor.damage)
            budgets = _budgets(advisor)
            with progress.stage("plan: weights of equal size", len(budgets)) as bar:
                found = []
                for budget in budgets.values():
                    found.append(sorted(advisor.choices(budget), key=lambda choice: choice.kl))
                    bar.advance()
    shape = card.source.shape
    decoder = shape.decoder_parameters(shape.dense_plan)
    return {
        "card": told.to_json(),
        "forecast": ahead,
        "model": card.source.name,
        "parameters": shape.parameters(shape.dense_plan),
        "decoder_bytes_float16": FLOAT16_BYTES * decoder,
        "other_bytes_float16": FLOAT16_BYTES * (shape.parameters(shape.dense_plan) - decoder),
        "unit": "KL(dense || choice) in nats per token",
        "text": options.calibration,
        "budgets": [
            {"budget": name, "bytes": budgets[name], "choices": [choice.to_json() for choice in choices]}
            for name, choices in zip(budgets, found, strict=True)
        ],
    }


def _budgets(advisor: _Advisor) -> dict[str, int]:
    """Returns decoder bytes by name, largest first: dense in each format, and shares of float16."""
    whole = advisor.dense(FLOAT16).bytes
    named = {f"{share:.0%} of float16": int(share * whole) for share in _SHARES}
    named |= {f"{form} dense": advisor.dense(form).bytes for form in (INT8, INT4)}
    return dict(sorted(named.items(), key=lambda item: -item[1]))


class _Advisor:
    """Judges cut and rounded decoders against dense on held-out windows."""

    def __init__(self, card: PreflightResult, task: Problem) -> None:
        self._card, self._task = card, task
        self._bank: BlockLibrary = make_block_library(task)
        self.damage = sensitivity_table(
            task, PlanEvaluator(task, lambda _: self._bank, tokens=(_TABLE_TOKENS,))
        )
        self._windows = task.windows[: max(1, _JUDGED_TOKENS // task.windows.shape[1])]
        self._targets: DenseTargets = task.head.targets(self._hidden(task.layers))
        self._dense: dict[Format, Choice] = {}

    def choices(self, budget: int) -> list[Choice]:
        """Returns the largest decoder of each format that fits."""
        found = [self._choice(form, budget) for form in _FORMATS]
        return [choice for choice in found if choice is not None]

    def dense(self, form: Format) -> Choice:
        """Returns the dense decoder in a format."""
        if form not in self._dense:
            stored, size = form.store(self._task.layers, self._card.source.dtype)
            self._dense[form] = Choice(form, 1.0, size, self._kl(stored))
        return self._dense[form]

    def _choice(self, form: Format, budget: int) -> Choice | None:
        dense = self.dense(form)
        if dense.bytes <= budget:
            return dense
        keep = budget / dense.bytes
        expected = dense.bytes / form.most_bytes(self._task.layers)
        while (layers := self._cut(keep)) is not None:
            size = int(expected * form.most_bytes(layers))
            if size <= budget:
                stored, size = form.store(layers, self._card.source.dtype)
                if size <= budget:
                    return Choice(form, keep, size, self._kl(stored))
            keep *= min(0.99, budget / size)
        return None

    def _cut(self, keep: float) -> list[Weights] | None:
        """Returns the layers of the best decoder with a share of the parameters, if there is one."""
        space = self._card.space
        at = replace(self._task, constraints=[parameter_constraint(space, self._card.source.shape, keep)])
        if not at.allows(space.smallest):
            return None
        plan = solve(space, self.damage, at.constraints)
        if plan is None or not has_attention(plan):
            return None
        return [
            {
                **self._bank.block(i, "attention", (layer.query_heads, layer.kv_heads)),
                **self._bank.block(i, "ffn", layer.width),
            }
            for i, layer in enumerate(plan)
        ]

    def _kl(self, layers: Sequence[Weights]) -> float:
        return self._task.head.kl(self._targets, self._hidden(layers))

    @torch.inference_mode()
    def _hidden(self, layers: Sequence[Weights]) -> torch.Tensor:
        runner, parts = self._task.runner, []
        for tokens in self._windows.split(_ROWS):
            hidden = self._task.embedding[tokens]
            for index, weights in enumerate(layers):
                hidden = runner.at(index).layer(weights, hidden)
            parts.append(hidden)
        return torch.cat(parts)
