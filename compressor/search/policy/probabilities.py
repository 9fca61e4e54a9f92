"""Probabilities of masks: where they start, what they cost in expectation, their projection onto a budget.

The units of a block are independent, so that the number of those kept has a Poisson binomial distribution,
which a recursion over units gives exactly. The expected cost of a block is the mean over it of what levels
cost: prices need not be linear in widths.

Shapes: X blocks, U the most units of a block, C constraints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lathe.compressor.search.policy.units import Units
from lathe.compressor.search.space import Constraint

_HALVINGS = 40
_LEAST = 1e-12
_CERTAINTY = 1.0
"""How much more likely, in logits, a unit is that the start keeps, and less that it drops."""
_WIDE = 60.0
"""The logits of prices of loss lie between minus this and this."""


@dataclass(frozen=True)
class Budget:
    """What masks may cost.

    Attributes:
        costs: What each block costs with n units, [C, X, 1 + U].
        rest: The cost of what is no block, [C].
        limits: [C].
        exist: Which entries of a mask stand for something, [X, 1 + U].
    """

    costs: np.ndarray
    rest: np.ndarray
    limits: np.ndarray
    exist: np.ndarray

    @classmethod
    def of(cls, units: Units, constraints: Sequence[Constraint]) -> Budget:
        """Returns the budget of a search."""
        return cls(
            units.costs(constraints),
            np.array([c.outside(units.space) for c in constraints]),
            np.array([c.limit for c in constraints]),
            units.exist,
        )

    def expected(self, probabilities: np.ndarray) -> np.ndarray:
        """Returns the expected cost of a whole model [C] for the probabilities [X, 1 + U] of a mask."""
        blocks, units = probabilities[:, :1], probabilities[:, 1:]
        counts = np.zeros(probabilities.shape)
        counts[:, 0] = 1.0
        for p in units.T[:, :, None]:
            kept = counts[:, :-1] * p
            counts *= 1 - p
            counts[:, 1:] += kept
        kept_cost = (self.costs * counts).sum(2)
        return self.rest + (blocks[:, 0] * kept_cost + (1 - blocks[:, 0]) * self.costs[:, :, 0]).sum(1)

    def used(self, probabilities: np.ndarray) -> float:
        """Returns the expected cost as a share of the limit, of the constraint with the largest one."""
        return float((self.expected(probabilities) / self.limits).max())

    def project(self, probabilities: np.ndarray) -> np.ndarray:
        """Returns probabilities in [0, 1] that use the whole budget: all moved by one amount, by bisection.

        Where even all units together are within the budget, all are certain.
        """
        return self._spent(lambda shift: probabilities - shift, -1.0, 1.0)

    def _spent(self, at: Callable[[float], np.ndarray], low: float, high: float) -> np.ndarray:
        """Returns what a function gives that falls with its argument, where it just uses the budget."""

        def clamped(value: float) -> np.ndarray:
            found: np.ndarray = np.clip(at(value), 0.0, 1.0) * self.exist
            return found

        if self.used(clamped(low)) <= 1:
            return clamped(low)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.used(clamped(middle)) > 1 else (low, middle)
        return clamped(high)

    def initial(self, harm: Sequence[np.ndarray], start: np.ndarray) -> np.ndarray:
        """Returns the probabilities [X, 1 + U] that sensitivities suggest, nearer to a mask that is given.

        A unit is the likelier, the more loss per cost it saves as the next one of its block, or with those
        behind it where they save more together; a block as its first unit.

        Args:
            harm: KL in nats per token with n units, n from 0 to the number of units, for each block.
            start: [X, 1 + U], a mask within the budget.
        """
        prices = (self.costs / self.limits[:, None, None]).max(0)
        worth = np.full(self.exist.shape, _LEAST)
        for row, price, loss in zip(worth, prices, harm, strict=True):
            for n in range(1, len(loss)):
                dearer = np.maximum(price[n : len(loss)] - price[n - 1], _LEAST)
                row[n] = max(_LEAST, float(((loss[n - 1] - loss[n:]) / dearer).max()))
            row[0] = row[1]
        logits = np.log(worth) + np.where(start, _CERTAINTY, -_CERTAINTY)
        return self._spent(lambda price: 1 / (1 + np.exp(price - logits)), -_WIDE, _WIDE)

    def mask(self, probabilities: np.ndarray) -> np.ndarray:
        """Returns the mask [X, 1 + U] of the likeliest units that fit, added one by one, attention first.

        Args:
            probabilities: [X, 1 + U]; a unit counts with its block's.
        """
        joint = np.where(self.exist[:, 1:], probabilities[:, 1:] * probabilities[:, :1], -1.0)
        mask, counts = np.zeros(self.exist.shape, dtype=bool), np.zeros(len(joint), dtype=int)
        order = np.argsort(-joint, axis=None, kind="stable")
        first = int(np.argmax(joint[::2].max(1)) * 2)
        forced = first * joint.shape[1] + int(joint[first].argmax())
        spent = self.rest + self.costs[:, :, 0].sum(1)
        for at in (forced, *(int(at) for at in order if at != forced)):
            block, unit = divmod(at, joint.shape[1])
            if joint[block, unit] < 0:
                continue
            more = self.costs[:, block, counts[block] + 1] - self.costs[:, block, counts[block]]
            if (spent + more <= self.limits * (1 + 1e-9)).all():
                mask[block, [0, 1 + unit]] = True
                counts[block] += 1
                spent = spent + more
        return mask
