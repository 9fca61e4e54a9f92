"""GRASPrune (Wang et al., ACL 2026, arXiv 2604.19398): gates that are trained under the budget.

Every KV group and block of channels has a gate p = sigmoid(score / 1.5). Before each step the gates are
projected onto the budget: units are taken by p (not by p over cost) while they fit, the best one of each
block first. The loss in predicting text goes forward through the hard mask and backward with the slope of p
(straight through); weights stay as they are. It is not free of training, but trains nothing else than the
choice: what the publication does then, a scale for each unit that stays, is left to the reconstruction.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from lathe.compressor.compute.progress import Bar
from lathe.compressor.model.pruning import select_plan
from lathe.compressor.search.method import Problem, SearchResult, methods
from lathe.compressor.search.method_choice import refuse_experts
from lathe.compressor.search.methods.fast import FAST
from lathe.compressor.search.policy.masked_model import MaskedModel
from lathe.compressor.search.policy.probabilities import Budget
from lathe.compressor.search.policy.units import Units, make_units

PASSES = 160
_TEMPERATURE = 1.5
_RATE, _FIRST, _SECOND, _EPSILON = 0.01, 0.9, 0.99, 1e-8
"""Of Adam, as published. Half and twice the rate had no better mask of SmolLM2-135M at 1.5x."""
_SPREAD = 1.0
"""The first score of a block's best unit less that of its worst."""
_EVERY, _PATIENCE = 10, 5
"""Steps between two looks at the held-out text, and how many of these may bring nothing."""


def search(problem: Problem) -> SearchResult:
    """Trains gates under the budget; returns the mask that was best on held-out text.

    `evaluations` of the problem are the most forward and backward passes, one for a step.
    """
    shape = problem.source.shape
    if problem.allows(shape.dense_plan):
        kept = select_plan(problem.rankings, shape.dense_plan)
        return SearchResult(shape.dense_plan, kept, 0.0, problem.trace.asked)
    kl, mask, units = Gates.of(problem).run()
    plan, rankings = units.subnet(mask)
    kept = select_plan(rankings, plan)
    return SearchResult(plan, kept, kl, problem.trace.asked)


@dataclass
class Gates:
    """Gates, step by step.

    Attributes:
        problem: The problem.
        units: What gates stand for.
        budget: What a mask may cost.
        model: Runs the model with masks.
        state: [3, X, U]: scores, and Adam's two moments of their gradients.
    """

    problem: Problem
    units: Units
    budget: Budget
    model: MaskedModel
    state: np.ndarray

    @classmethod
    def of(cls, problem: Problem) -> Gates:
        """Returns gates in the order of the ranking, the same in all blocks."""
        units = make_units(problem.space, problem.rankings, problem.source.shape.dense_plan)
        state = np.zeros((3, len(units.blocks), units.most))
        for row, block in zip(state[0], units.blocks, strict=True):
            row[: block.count] = -_SPREAD * np.arange(block.count) / block.count
        budget = Budget.of(units, problem.constraints)
        return cls(problem, units, budget, MaskedModel(problem, units), state)

    def run(self) -> tuple[float, np.ndarray, Units]:
        """Takes all steps; returns the least KL of a mask on held-out text, the mask, and its units."""
        steps, name = self.problem.evaluations, self.problem.digest()
        best, waited, start = (math.inf, self.mask()), 0, 0
        with self.problem.progress.stage("search: gates", steps) as bar:
            for end in (*range(0, steps, _EVERY), steps):
                key = f"heldout {name} {end}"
                if self.problem.trace.knows(key):
                    bar.advance(end - start)
                row = self.problem.trace.record(key, partial(self._trained, start, end, bar))
                self.state, start = self._unpacked(row["state"]), end
                bar.note(f"held-out KL {row['value']:.4f} nats/token")
                waited += 1
                if row["value"] < best[0]:
                    best, waited = (row["value"], self.mask()), 0
                if waited == _PATIENCE:
                    break
        return *best, self.units

    def mask(self) -> np.ndarray:
        """Returns the gates projected onto the budget, [X, 1 + U]."""
        exist = self.units.exist
        ranked = np.where(exist[:, 1:], self._p, -1.0)
        ranked[np.arange(len(ranked)), ranked.argmax(1)] += 1.0
        return self.budget.mask(np.concatenate([np.ones((len(ranked), 1)), ranked], 1))

    @property
    def _p(self) -> np.ndarray:
        found: np.ndarray = 1 / (1 + np.exp(-self.state[0] / _TEMPERATURE))
        return found

    def step(self, number: int) -> None:
        """Moves the scores by the gradient of the loss on a batch of text."""
        _, slopes = self.model.slopes((self.mask(), self._batch(number)))
        gradient = slopes[:, 1:] * self._p * (1 - self._p) / _TEMPERATURE
        scores, first, second = self.state
        first += (1 - _FIRST) * (gradient - first)
        second += (1 - _SECOND) * (gradient**2 - second)
        mean, square = first / (1 - _FIRST ** (number + 1)), second / (1 - _SECOND ** (number + 1))
        scores -= _RATE * mean / (np.sqrt(square) + _EPSILON)

    def _trained(self, start: int, end: int, bar: Bar) -> tuple[float, Mapping[str, Any]]:
        """Takes some steps; returns the KL on held-out text, and where the gates are."""
        for number in range(start, end):
            self.step(number)
            bar.advance()
        packed = self.state[:, self.units.exist[:, 1:]].astype(np.float32)
        state = base64.b64encode(packed.tobytes()).decode()
        return self.model((self.mask(), None)), {"step": end, "state": state}

    def _unpacked(self, text: str) -> np.ndarray:
        state = np.zeros_like(self.state)
        packed = np.frombuffer(base64.b64decode(text), dtype=np.float32)
        state[:, self.units.exist[:, 1:]] = packed.reshape(len(state), -1)
        return state

    def _batch(self, step: int) -> int:
        """Returns the number of a step's batch of text: all of them, in another order again and again."""
        count = len(self.model.batches)
        order = np.random.default_rng([self.problem.seed, step // count]).permutation(count)
        return int(order[step % count])


methods.add(
    "grasprune",
    replace(
        FAST,
        name="grasprune",
        search=search,
        default_evaluations=PASSES,
        sensitivities=None,
        check=partial(refuse_experts, "grasprune"),
    ),
)
