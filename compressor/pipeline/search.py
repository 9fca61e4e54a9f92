"""The search stage: a method run on the calibration's results, its plan kept in the run directory."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lathe.artefact.errors import UserError
from lathe.artefact.plan import Plan
from lathe.compressor.compute.progress import Progress
from lathe.compressor.model.pruning import Selection, select_ranked
from lathe.compressor.pipeline.calibrate import CalibrationResult
from lathe.compressor.pipeline.finalists import choose
from lathe.compressor.pipeline.run_context import RunContext
from lathe.compressor.pipeline.run_directory import key
from lathe.compressor.search.method import Problem, SearchResult
from lathe.compressor.search.methods.lathe import evaluate_given_plan, measure_sensitivities
from lathe.compressor.search.space import Constraint
from lathe.compressor.search.trace import Trace

_ROUNDING_TOKENS = 8192
"""Tokens that the inputs of matrices are measured on before these are rounded."""
SELECTED = tuple(field.name for field in fields(Selection))


@dataclass(frozen=True)
class Searcher:
    """Finds plans under constraints; under the same ones again, the plan comes from the run directory.

    Attributes:
        context: The run.
        calibration: What it is calibrated with.
        ranked: Whether what is kept is stored in the order of its importance, as in a family.
        within: The next wider plan of a family.
    """

    context: RunContext
    calibration: CalibrationResult
    ranked: bool = False
    within: Plan | None = None

    @property
    def trace_path(self) -> Path:
        """The file that every evaluation is noted in."""
        name = f"trace-{self.context.preflight.method.name}-{self.calibration.key}.jsonl"
        return self.context.run_dir.path / name

    def __call__(self, constraints: list[Constraint]) -> SearchResult:
        """Returns the best plan under these constraints, or the plan that the run was given, evaluated."""
        return self._result(constraints, self.context.preflight.plan)

    def evaluate(self, plan: Plan) -> SearchResult:
        """Evaluates a plan and selects the heads and channels that it keeps."""
        return self._result(self.context.preflight.constraints, plan)

    def sensitivities(self) -> np.ndarray:
        """Returns the method's table of sensitivities; the default method's where it has none."""
        preflight = self.context.preflight
        return (preflight.method.sensitivities or measure_sensitivities)(self.problem(preflight.constraints))

    def known_sensitivities(self) -> np.ndarray | None:
        """Returns the table that the search made, out of the trace; None where it made none."""
        preflight = self.context.preflight
        if preflight.plan is not None or preflight.method.sensitivities is None:
            return None
        problem = replace(self.problem(preflight.constraints), progress=Progress(quiet=True))
        return preflight.method.sensitivities(problem)

    def problem(self, constraints: list[Constraint]) -> Problem:
        """Returns what a search is given; it evaluates candidates on the held-out windows."""
        context, calibration = self.context, self.calibration
        preflight, options = context.preflight, context.options
        return Problem(
            preflight.source,
            calibration.model,
            preflight.space,
            calibration.windows[calibration.heldout],
            calibration.statistics,
            calibration.rankings,
            calibration.dampings,
            calibration.errors,
            constraints,
            Trace(self.trace_path),
            context.progress,
            options.evaluations or preflight.method.default_evaluations,
            options.seed,
            context.store,
            context.workers,
            calibration.fitted(_ROUNDING_TOKENS),
            preflight.mixed,
            options.groups,
            self.within,
            partial(choose, context, calibration),
        )

    def _result(self, constraints: list[Constraint], plan: Plan | None) -> SearchResult:
        run_dir, name = self.context.run_dir, self._key(constraints, plan)
        facts = run_dir.json(f"plan-{name}", lambda: self._compute(name, constraints, plan))
        saved = run_dir.tensors(f"selection-{name}", dict)
        selections = [
            Selection(*(saved[f"{part}.{i}"] for part in SELECTED))
            for i in range(len(self.context.preflight.source.shape.dense_plan))
        ]
        return SearchResult(Plan.from_json(facts["plan"]), selections, facts["fitness"], facts["evaluations"])

    def _key(self, constraints: list[Constraint], plan: Plan | None) -> str:
        """Names a search by everything that it follows from."""
        options = self.context.options
        return key(
            self.calibration.key,
            self.context.preflight.method.name,
            options.evaluations,
            options.seed,
            str(options.groups),
            plan and plan.to_json(),
            *([self.within and self.within.to_json()] if self.ranked else []),
            [
                asdict(c) | {"attention": [*c.attention.values()], "ffn": [*c.ffn.values()]}
                for c in constraints
            ],
        )

    def _compute(self, name: str, constraints: list[Constraint], plan: Plan | None) -> dict[str, Any]:
        smallest = self.context.preflight.choices.smallest
        if not all(c.allows(smallest) for c in constraints):
            raise UserError("the targets together leave no plan", "Relax one of them.")
        problem, method = self.problem(constraints), self.context.preflight.method
        found = evaluate_given_plan(problem, plan) if plan else method.search(problem)
        selections = found.selections
        if self.ranked:
            selections = list(map(select_ranked, self.calibration.rankings, found.plan))
        self.context.run_dir.tensors(f"selection-{name}", lambda: _selection_tensors(selections))
        return {"plan": found.plan.to_json(), "fitness": found.fitness, "evaluations": found.evaluations}


def _selection_tensors(selections: list[Selection]) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{i}": getattr(selection, name) for i, selection in enumerate(selections) for name in SELECTED
    }
