"""The fastest subnet within a quality: plans of a table of damages, finished and scored until one is near."""

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
from lathe.compressor.pipeline.preflight import PreflightResult
from lathe.compressor.search.evolution import has_attention
from lathe.compressor.search.knapsack import solve, total
from lathe.compressor.search.space import Constraint, parameter_constraint

_ROUNDS, _HALVINGS = 4, 16
_NEAR = 0.85
"""A subnet that spends this share of the loss increase allowed is near enough."""
_FIRST_GUESS = 0.5
"""What the last reform leaves of the sum of damages, before one was made."""


@dataclass
class QualityLoop:
    """Looks for the least milliseconds (without a latency table: parameters) within a perplexity.

    increase: of perplexity over dense that is allowed, a share. choose: from a plan to what is kept of the
    model. make: makes that, and gives the loss over dense in nats per token.
    """

    card: PreflightResult
    table: LatencyTable | None
    damage: np.ndarray
    increase: float
    choose: Callable[[Plan], Iteration]
    make: Callable[[Iteration], float]
    progress: Progress
    rounds: list[dict[str, Any]] = field(default_factory=list)

    def run(self) -> Iteration:
        """The fastest of the subnets made that keep the quality.

        Raises:
            UserError: none did.
        """
        allowed, left = math.log1p(self.increase), _FIRST_GUESS
        best: Iteration | None = None
        for _ in range(_ROUNDS):
            plan, damage = self._plan(allowed / left)
            if any(row["plan"] == plan.to_json()["layers"] for row in self.rounds):
                break
            chosen = self.choose(plan)
            loss = self.make(chosen)
            self.rounds.append(
                {
                    "loss_increase": loss,
                    "allowed": allowed,
                    "budget": self._cost(plan),
                    "plan": plan.to_json()["layers"],
                }
            )
            self.progress.say(
                f"  round {len(self.rounds)}: perplexity {math.expm1(loss):+.1%}, "
                f"allowed {self.increase:+.1%}"
            )
            if loss <= allowed and (best is None or self._cost(plan) < self._cost(best.plan)):
                best = chosen
            if _NEAR * allowed <= loss <= allowed:
                break
            left = max(loss, 0.05 * allowed) / max(damage, 1e-9)
        if best is None:
            worst = min(row["loss_increase"] for row in self.rounds)
            raise UserError(
                f"no subnet kept a perplexity within {self.increase:+.1%}; the nearest had "
                f"{math.expm1(worst):+.1%}",
                "Allow more, or give more calibration text.",
            )
        return best

    def _plan(self, allowed: float) -> tuple[Plan, float]:
        """The cheapest plan whose damages sum to no more than `allowed`, by halving its budget."""
        space = self.card.space
        low, high = (self._cost(p) for p in (space.smallest, self.card.source.shape.dense_plan))
        best = self.card.source.shape.dense_plan
        for _ in range(_HALVINGS):
            limit = (low + high) / 2
            plan = solve(space, self.damage, [*self.card.constraints, self._budget(limit)])
            if plan is not None and has_attention(plan) and total(space, self.damage, plan) <= allowed:
                high, best = limit, plan
            else:
                low = limit
        return best, total(space, self.damage, best)

    def _budget(self, limit: float) -> Constraint:
        if self.table:
            return self.table.constraint(self.card.space, limit)
        return parameter_constraint(self.card.space, self.card.source.shape, limit)

    def _cost(self, plan: Plan) -> float:
        """Milliseconds, or the share of the decoder's parameters."""
        if self.table:
            return self.table.predict(plan)
        return self.card.source.shape.kept(plan)
