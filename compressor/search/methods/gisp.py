"""GISP (Wang et al., ACL 2026, arXiv 2510.18030): first-order saliency, in many small steps.

Each step takes gradients of the loss in predicting text anew, on what is left, and removes the units of all
layers that are least salient for what they cost until the subnet has come down by a step's share of the dense
model's milliseconds. Nothing is compensated meanwhile. The subnets of all steps are nested, and with one
budget alone they are the same for every limit: a search for a tighter one goes on from there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from lathe.compressor.model.pruning import Selection, select_plan
from lathe.compressor.search.end_layers import end_layers
from lathe.compressor.search.method import Problem, SearchResult, methods
from lathe.compressor.search.method_choice import refuse_experts
from lathe.compressor.search.methods.fast import FAST
from lathe.compressor.search.removal.saliency import PrunedModel
from lathe.compressor.search.removal.steps import Steps, plan_of
from lathe.compressor.search.short_text import ROWS, fitted_windows

STEPS, _REMOVED = 112, 0.7
"""The published steps, and the share of the dense model's cost that all of them remove."""
PASSES = 2 * STEPS


def search(problem: Problem) -> SearchResult:
    """Removes units step by step until all budgets are kept.

    `evaluations` of the problem are forward and backward passes: as many as all steps down to 30 % of the
    dense model's cost would take.
    """
    return _Removal.of(problem).run()


@dataclass(frozen=True)
class _Removal:
    """One search.

    Attributes:
        problem: The problem.
        steps: Removes units.
        model: Measures their saliency.
        dense: What the dense model costs, [C].
        limits: [C].
    """

    problem: Problem
    steps: Steps
    model: PrunedModel
    dense: np.ndarray
    limits: np.ndarray

    @classmethod
    def of(cls, problem: Problem) -> _Removal:
        """Returns the search of a problem."""
        shape, constraints = problem.source.shape, problem.constraints
        spared = end_layers(shape.num_layers)
        steps = Steps(problem.space, constraints, shape.layer.heads_per_group, spared)
        dense, limits = np.array([(c.cost(shape.dense_plan), c.limit) for c in constraints]).T
        return cls(problem, steps, PrunedModel(problem), dense, limits)

    @property
    def share(self) -> float:
        """Returns the share of the dense model's cost that a step removes."""
        return _REMOVED / min(STEPS, self.problem.evaluations)

    def run(self) -> SearchResult:
        """Takes all steps."""
        problem, shape = self.problem, self.problem.source.shape
        kept = select_plan(problem.rankings, shape.dense_plan)
        count = max(0, math.ceil(float((1 - self.limits / self.dense).max()) / self.share - 1e-9))
        name = problem.digest(limits=len(self.limits) > 1)
        with problem.progress.stage("search: steps of saliency", count) as bar:
            for number in range(1, count + 1):
                end = f" {self.limits.tolist()}" if number == count else ""
                row = problem.trace.record(
                    f"mask {name} {number}{end}", partial(self._step, number, kept, last=bool(end))
                )
                kept = self.steps.without(kept, [(at, units) for at, units in row["removed"]])
                bar.note(f"loss {row['value']:.4f} nats/token")
                bar.advance()
        key = f"plan {name} {self.limits.tolist()}"
        kl = problem.trace.evaluate(key, partial(self.model.heldout_kl, kept))
        return SearchResult(plan_of(kept), kept, kl, problem.trace.asked)

    def _step(self, number: int, kept: Sequence[Selection], last: bool) -> tuple[float, Mapping[str, Any]]:
        """Returns the loss before a step, and what the step removes."""
        loss, saliency = self.model.saliency(kept, self._text(number))
        targets = np.maximum(self.limits, (1 - number * self.share) * self.dense)
        removed = self.steps.down(kept, saliency, targets)
        if last:
            removed = self.steps.refilled(kept, removed)
        costs = self.steps.costs(self.steps.without(kept, removed)).tolist()
        spent = {c.name: round(cost, 6) for c, cost in zip(self.problem.constraints, costs, strict=True)}
        return loss, {"costs": spent, "removed": removed}

    def _text(self, number: int) -> torch.Tensor:
        """Returns the windows of a step, drawn anew."""
        windows = fitted_windows(self.problem)
        passes = max(1, self.problem.evaluations // STEPS)
        drawn = np.random.default_rng([self.problem.seed, number]).permutation(len(windows))
        return windows[torch.from_numpy(drawn[: passes * ROWS])]


methods.add(
    "gisp",
    replace(
        FAST,
        name="gisp",
        search=search,
        default_evaluations=PASSES,
        sensitivities=None,
        check=partial(refuse_experts, "gisp"),
    ),
)
