"""The search stage: a method run on what was prepared, its plan kept in the run directory."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lathe.artefact.errors import UserError
from lathe.artefact.plan import Plan
from lathe.compressor.compute.progress import Progress
from lathe.compressor.model.pruning import Selection
from lathe.compressor.pipeline.calibrate import CalibrationResult
from lathe.compressor.pipeline.options import Options
from lathe.compressor.pipeline.preflight import PreflightResult
from lathe.compressor.pipeline.run_directory import RunDirectory, key
from lathe.compressor.search.method import Problem, SearchResult
from lathe.compressor.search.methods.lathe import evaluate_given_plan, measure_sensitivities
from lathe.compressor.search.space import Constraint
from lathe.compressor.search.trace import Trace

SELECTED = tuple(field.name for field in fields(Selection))


@dataclass(frozen=True)
class Searcher:
    """Finds plans under constraints; the same ones again come from the run directory."""

    options: Options
    card: PreflightResult
    prepared: CalibrationResult
    run: RunDirectory
    progress: Progress

    @property
    def trace_path(self) -> Path:
        return self.run.path / f"trace-{self.options.method}-{self.prepared.key}.jsonl"

    def __call__(self, constraints: list[Constraint]) -> SearchResult:
        asked, given = self.options, self.card.plan and self.card.plan.to_json()
        name = key(
            self.prepared.key,
            asked.method,
            asked.evaluations,
            asked.seed,
            given,
            [
                asdict(c) | {"attention": [*c.attention.values()], "ffn": [*c.ffn.values()]}
                for c in constraints
            ],
        )
        facts = self.run.json(f"plan-{name}", lambda: self._now(name, constraints))
        saved = self.run.tensors(f"selection-{name}", dict)
        selections = [
            Selection(*(saved[f"{part}.{i}"] for part in SELECTED))
            for i in range(len(self.card.source.shape.dense_plan))
        ]
        return SearchResult(Plan.from_json(facts["plan"]), selections, facts["fitness"], facts["evaluations"])

    def _now(self, name: str, constraints: list[Constraint]) -> dict[str, Any]:
        smallest = self.card.space.smallest
        if not all(c.allows(smallest) for c in constraints):
            raise UserError("the targets together leave no plan", "Relax one of them.")
        problem = self.problem(constraints)
        found = (
            evaluate_given_plan(problem, self.card.plan)
            if self.card.plan
            else self.card.method.search(problem)
        )
        self.run.tensors(f"selection-{name}", lambda: _selection_tensors(found.selections))
        return {"plan": found.plan.to_json(), "fitness": found.fitness, "evaluations": found.evaluations}

    def damages(self) -> np.ndarray:
        """The method's table of damages; of one that makes none, the default method's."""
        return (self.card.method.sensitivities or measure_sensitivities)(self.problem(self.card.constraints))

    def problem(self, constraints: list[Constraint]) -> Problem:
        """What a search is given: candidates are judged on the held-out windows."""
        card, p = self.card, self.prepared
        return Problem(
            card.source,
            p.model,
            card.space,
            p.windows[p.heldout],
            p.statistics,
            p.rankings,
            p.dampings,
            p.errors,
            constraints,
            Trace(self.trace_path),
            self.progress,
            self.options.evaluations or card.method.default_evaluations,
            self.options.seed,
            p.store,
            p.workers,
        )


def _selection_tensors(selections: list[Selection]) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{i}": getattr(selection, name) for i, selection in enumerate(selections) for name in SELECTED
    }
