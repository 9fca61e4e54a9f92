"""A policy gradient over masks (Gao et al., Bypass Back-propagation, ACL 2025, arXiv 2406.10576).

Every KV group, block of channels and whole block has a probability. A step draws two masks, measures what the
predictions of the dense model lose by each on the same text, moves the probabilities by the difference, and
projects them onto the budget. It takes forward passes alone. It starts between the knapsack's plan and what
sensitivities suggest. Of the knapsack's plan, the best mask on held-out text, and the first units of the
ranking in that mask's widths, the one that is best after the closed-form reconstruction wins.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from lathe.artefact.plan import Plan
from lathe.compressor.compute.progress import Bar
from lathe.compressor.model.pruning import ImportanceRanking, select_plan
from lathe.compressor.search.evolution import has_attention
from lathe.compressor.search.method import Problem, SearchResult, methods
from lathe.compressor.search.method_choice import refuse_experts
from lathe.compressor.search.methods.fast import FAST
from lathe.compressor.search.methods.lathe import (
    least_harmful,
    measure_sensitivities,
    moves_of,
)
from lathe.compressor.search.plan_evaluator import PlanEvaluator
from lathe.compressor.search.policy.gradient import policy_gradient
from lathe.compressor.search.policy.masked_model import Asked, MaskedModel
from lathe.compressor.search.policy.probabilities import Budget
from lathe.compressor.search.policy.units import Units, make_units
from lathe.compressor.search.sensitivity_table import sensitivity_table

MASKS = 2
"""Masks of a step."""
FORWARD_PASSES = 600
_RATE, _FARTHEST = 0.1, 0.1
"""The first step's rate per standard deviation of the losses; the most that a probability moves in a step."""
_MEMORY = 0.9
"""The share of earlier steps in the running variance of the losses."""
_EVERY, _PATIENCE = 10, 10
"""Steps between two looks at the held-out text, and how many of these may bring nothing."""
Subnet = tuple[Plan, list[ImportanceRanking]]


def search(problem: Problem) -> SearchResult:
    """Refines the knapsack's plan by a policy gradient over masks; returns the plan where that is better.

    `evaluations` of the problem are the most forward passes of a batch, two for a step.
    """
    evaluator = PlanEvaluator(problem)
    sensitivities = sensitivity_table(problem, evaluator)
    start = least_harmful(problem, moves_of(problem, sensitivities))
    subnets: list[Subnet] = [(start, problem.rankings)]
    if start != problem.source.shape.dense_plan:
        subnets += _Refinement.of(problem, start, sensitivities).run()
    name = problem.digest()
    keys = [f"plan {name} {number}" for number in range(len(subnets))]
    unknown = [
        (PlanEvaluator(replace(problem, rankings=rankings)), plan)
        for (plan, rankings), key in zip(subnets, keys, strict=True)
        if not problem.trace.knows(key)
    ]
    found = problem.workers.map(_reconstructed, unknown)
    fitness = [problem.trace.evaluate(key, partial(next, found)) for key in keys]
    best = fitness.index(min(fitness))
    plan, rankings = subnets[best]
    selections = select_plan(rankings, plan)
    return SearchResult(plan, selections, fitness[best], problem.trace.asked)


def _reconstructed(asked: tuple[PlanEvaluator, Plan]) -> float:
    """Returns the KL of a plan as the last stage of the default search has it: with blocks reconstructed."""
    evaluator, plan = asked
    return evaluator.evaluate((plan, 1))


@dataclass
class _Refinement:
    """The probabilities of masks, step by step.

    Attributes:
        problem: The problem.
        units: What masks stand for.
        budget: What they may cost.
        model: Measures them.
        start: The mask of the plan that it starts from, [X, 1 + U].
        probabilities: [X, 1 + U], those now.
        name: Its values in the trace are under this.
        variance: The running variance of the losses of a step.
    """

    problem: Problem
    units: Units
    budget: Budget
    model: MaskedModel
    start: np.ndarray
    probabilities: np.ndarray
    name: str
    variance: float = 0.0

    @classmethod
    def of(cls, problem: Problem, start: Plan, sensitivities: np.ndarray) -> _Refinement:
        """Returns the refinement of a plan, by the sensitivities of each block at each level."""
        units = make_units(problem.space, problem.rankings, start)
        budget, mask = Budget.of(units, problem.constraints), units.mask_of(start)
        harm = [row[list(block.levels)] for row, block in zip(sensitivities, units.blocks, strict=True)]
        model = MaskedModel(problem, units)
        return cls(problem, units, budget, model, mask, budget.initial(harm, mask), problem.digest())

    def run(self) -> list[Subnet]:
        """Takes all steps; returns the best mask on held-out text, and its widths with the ranking's units.

        There are none where no mask kept any attention, and where that of the start was the best.
        """
        steps, best, waited = max(1, self.problem.evaluations // MASKS), (math.inf, self.start), 0
        rng = np.random.default_rng(self.problem.seed)
        with self.problem.progress.stage("search: policy gradient", steps) as bar:
            dense = self._heldout(self.start, 0)
            bar.note(f"held-out KL {dense:.4f} nats/token")
            for step, batch in zip(range(steps), self._order(rng), strict=False):
                self._step(rng, batch, step, 0.5 + 0.5 * math.cos(math.pi * step / steps))
                bar.advance()
                if (step + 1) % _EVERY and step + 1 < steps:
                    continue
                best, waited = self._look(best, waited, step + 1, bar)
                if waited == _PATIENCE:
                    break
        if math.isinf(best[0]) or np.array_equal(best[1], self.start):
            return []
        plan, rankings = self.units.subnet(best[1])
        return [(plan, rankings), (plan, self.problem.rankings)]

    def _look(
        self, best: tuple[float, np.ndarray], waited: int, step: int, bar: Bar
    ) -> tuple[tuple[float, np.ndarray], int]:
        """Measures the likeliest mask on held-out text; returns the best, and for how long it has been so."""
        mask = self.budget.mask(self.probabilities)
        if not has_attention(self.units.subnet(mask)[0]):
            return best, waited + 1
        kl = self._heldout(mask, step)
        bar.note(f"held-out KL {kl:.4f} nats/token")
        return ((kl, mask), 0) if kl < best[0] else (best, waited + 1)

    def _order(self, rng: np.random.Generator) -> Iterator[int]:
        """Yields the numbers of batches, all of them in another order again and again."""
        while True:
            yield from rng.permutation(len(self.model.batches)).tolist()

    def _step(self, rng: np.random.Generator, batch: int, step: int, rate: float) -> None:
        now = self.probabilities
        masks = rng.random((MASKS, *now.shape)) < now
        keys = [f"mask {self.name} {step} {number}" for number in range(MASKS)]
        losses = self._measured(keys, [(mask, batch) for mask in masks], now)
        spread = float(np.var(losses, ddof=1))
        self.variance = _MEMORY * self.variance + (1 - _MEMORY) * spread if step else spread
        moves = policy_gradient(losses, masks, now) / math.sqrt(self.variance or 1.0)
        moved = now - np.clip(_RATE * rate * moves, -_FARTHEST, _FARTHEST)
        self.probabilities = self.budget.project(np.clip(moved, 0.0, 1.0))

    def _measured(self, keys: Sequence[str], asked: Sequence[Asked], now: np.ndarray) -> list[float]:
        """Returns the losses of masks, from the trace or newly measured and recorded there."""
        trace = self.problem.trace
        unknown = [item for key, item in zip(keys, asked, strict=True) if not trace.knows(key)]
        found = self.problem.workers.map(self.model, unknown)
        return [trace.evaluate(key, partial(next, found), expected=self._costs(now)) for key in keys]

    def _costs(self, probabilities: np.ndarray) -> dict[str, float]:
        """Returns the expected cost of the probabilities by constraint."""
        costs = self.budget.expected(probabilities).tolist()
        return {c.name: round(cost, 6) for c, cost in zip(self.problem.constraints, costs, strict=True)}

    def _heldout(self, mask: np.ndarray, step: int) -> float:
        """Returns the KL of a mask on held-out text, after some steps."""
        key = f"heldout {self.name} {step}"
        return self.problem.trace.evaluate(key, partial(self.model, (mask, None)), step=step)


check = partial(refuse_experts, "policy-gradient")
methods.add(
    "policy-gradient",
    replace(
        FAST,
        name="policy-gradient",
        search=search,
        default_evaluations=FORWARD_PASSES,
        sensitivities=measure_sensitivities,
        check=check,
    ),
)
