"""The quality loop: the fastest subnet within a quality.

Plans come from a table of sensitivities. They are made and scored until one spends most of the allowed loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lathe.artefact.errors import UserError
from lathe.artefact.plan import Plan
from lathe.compressor.compute.progress import Progress
from lathe.compressor.latency.table import LatencyTable
from lathe.compressor.pipeline.latency_loop import Iteration
from lathe.compressor.pipeline.preflight_result import PreflightResult
from lathe.compressor.search.evolution import has_attention
from lathe.compressor.search.knapsack import solve, total
from lathe.compressor.search.space import Constraint, parameter_constraint

_ROUNDS, _HALVINGS = 4, 16
_NEAR = 0.85
"""A subnet that spends this share of the allowed loss increase is near enough."""
_FIRST_GUESS = 0.5
"""The assumed ratio of the final loss increase to the sum of sensitivities, before a subnet was made."""


@dataclass
class QualityLoop:
    """Minimises milliseconds (without a latency table: parameters) within a loss increase.

    Attributes:
        preflight: The space and the other targets.
        table: The latency table, where milliseconds are minimised.
        sensitivities: Object array [blocks] of [levels]: KL in nats per token of each block at each level.
        allowed: The loss increase over dense that is allowed, in nats per token.
        evaluate: Evaluates a plan and selects the heads and channels that it keeps.
        loss_increase: Makes the artefact and returns its loss increase over dense in nats per token.
        progress: Is told of every round.
        rounds: What was made, as the report has it.
    """

    preflight: PreflightResult
    table: LatencyTable | None
    sensitivities: np.ndarray
    allowed: float
    evaluate: Callable[[Plan], Iteration]
    loss_increase: Callable[[Iteration], float]
    progress: Progress
    rounds: list[dict[str, Any]] = field(init=False, default_factory=list)

    def run(self) -> Iteration:
        """Returns the fastest of the subnets made that keep the quality.

        Raises:
            UserError: none did.
        """
        allowed, left = self.allowed, _FIRST_GUESS
        best: Iteration | None = None
        made: set[Plan] = set()
        for _ in range(_ROUNDS):
            plan, expected = self._plan(allowed / left)
            if plan in made:
                break
            made.add(plan)
            iteration = self.evaluate(plan)
            loss = self.loss_increase(iteration)
            self._note(plan, loss)
            if loss <= allowed and (best is None or self._cost(plan) < self._cost(best.plan)):
                best = iteration
            if _NEAR * allowed <= loss <= allowed:
                break
            left = max(loss, 0.05 * allowed) / max(expected, 1e-9)
        return best or self._refuse()

    def _note(self, plan: Plan, loss: float) -> None:
        self.rounds.append(
            {
                "loss_increase": loss,
                "allowed": self.allowed,
                "budget": self._cost(plan),
                "plan": plan.to_json()["layers"],
            }
        )
        self.progress.say(
            f"  round {len(self.rounds)}: perplexity {math.expm1(loss):+.1%}, "
            f"allowed {math.expm1(self.allowed):+.1%}"
        )

    def _refuse(self) -> Iteration:
        nearest = min(row["loss_increase"] for row in self.rounds)
        raise UserError(
            f"no subnet kept a perplexity within {math.expm1(self.allowed):+.1%}; the nearest had "
            f"{math.expm1(nearest):+.1%}",
            "Allow more, or give more calibration text.",
        )

    def _plan(self, allowed: float) -> tuple[Plan, float]:
        """Returns the cheapest plan whose sensitivities sum to at most `allowed`, and that sum.

        The plan's budget is found by bisection.
        """
        space, dense = self.preflight.choices, self.preflight.source.shape.dense_plan
        low, high = self._cost(space.smallest), self._cost(dense)
        best = dense
        for _ in range(_HALVINGS):
            limit = (low + high) / 2
            plan = solve(space, self.sensitivities, [*self.preflight.constraints, self._budget(limit)])
            if plan and has_attention(plan) and total(space, self.sensitivities, plan) <= allowed:
                high, best = limit, plan
            else:
                low = limit
        return best, total(space, self.sensitivities, best)

    def _budget(self, limit: float) -> Constraint:
        if self.table:
            return self.table.constraint(self.preflight.choices, limit)
        return parameter_constraint(self.preflight.choices, self.preflight.source.shape, limit)

    def _cost(self, plan: Plan) -> float:
        """Returns milliseconds, or without a table the share of the decoder's parameters."""
        if self.table:
            return self.table.predict(plan)
        return self.preflight.source.shape.kept(plan)
