"""The dense model with masks on what its output projections read, and what its predictions lose by them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from lathe.artefact.plan import BLOCK_KINDS
from lathe.compressor.compute.precision import fast_products, products
from lathe.compressor.model.lm_head import DenseTargets
from lathe.compressor.model.loss_gradients import loss_gradients
from lathe.compressor.search.method import Problem
from lathe.compressor.search.policy.units import Units
from lathe.compressor.search.short_text import ROWS, fitted_windows, heldout_windows

Factors = Sequence[torch.Tensor | None]
"""For each block, what its output projection's inputs are multiplied by; None for a block that is dropped."""
Asked = tuple[np.ndarray, int | None]
"""A mask [X, 1 + U], and the number of the batch of text; None asks for the held-out text."""


class MaskedModel:
    """Measures masks by KL(dense || masked) in nats per token. What it needs is made on first use.

    Args:
        problem: The problem: its `fitted` windows are sampled from, its others are held out.
        units: What masks stand for.
    """

    def __init__(self, problem: Problem, units: Units) -> None:
        self._problem, self._units = problem, units
        self._targets: dict[tuple[int, ...], DenseTargets] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Sends the arguments alone."""
        return MaskedModel, (self._problem, self._units)

    @cached_property
    def batches(self) -> Sequence[torch.Tensor]:
        """The text that masks are sampled on, in batches [ROWS, LENGTH]."""
        return fitted_windows(self._problem).split(ROWS)

    @cached_property
    def _heldout(self) -> Sequence[torch.Tensor]:
        return heldout_windows(self._problem).split(ROWS)

    def __call__(self, asked: Asked) -> float:
        """Returns the KL of a mask on a batch; on held-out text it is of exact products."""
        mask, number = asked
        if number is not None:
            return self._kl(mask, self.batches[number], bfloat16=True)
        kls = [self._kl(mask, batch) * len(batch) for batch in self._heldout]
        return sum(kls) / sum(map(len, self._heldout))

    def _kl(self, mask: np.ndarray, batch: torch.Tensor, bfloat16: bool = False) -> float:
        head = self._problem.head
        return head.kl(self._dense(batch), self._hidden(batch, mask, bfloat16))

    def _dense(self, batch: torch.Tensor) -> DenseTargets:
        """Returns what the dense model predicts; it is kept unless memory is bounded."""
        key = tuple(batch.flatten().tolist())
        if key not in self._targets:
            found = self._problem.head.targets(self._hidden(batch, None, False))
            if self._problem.store.bounded:
                return found
            self._targets[key] = found
        return self._targets[key]

    @torch.inference_mode()
    def _hidden(self, batch: torch.Tensor, mask: np.ndarray | None, bfloat16: bool) -> torch.Tensor:
        """Returns the stream after the last layer, [B, T, D]."""
        problem = self._problem
        state, factors = problem.embedding[batch], None if mask is None else self._factors(mask)
        with products(problem.store.device, bfloat16):
            for index in range(len(problem.layers)):
                state = self._layer(index, state, factors)
        return state

    def slopes(self, asked: Asked) -> tuple[float, np.ndarray]:
        """Returns the loss of a mask on a batch, and how it changes with what each unit is multiplied by.

        The loss is that in predicting the text, in nats per token. The slopes [X, 1 + U] are of units that
        are kept and of those that are not, but zero in blocks that are dropped; nothing is in front.
        """
        mask, number = asked
        assert number is not None
        problem, batch = self._problem, self.batches[number]
        factors = [None if values is None else values.requires_grad_() for values in self._factors(mask)]

        def run(index: int, state: torch.Tensor) -> torch.Tensor:
            with fast_products(problem.store.device):
                return self._layer(index, state, factors)

        loss, done = loss_gradients(problem.head, run, len(problem.layers), problem.embedding[batch], batch)
        for _ in done:
            pass
        found = [None if values is None else values.grad for values in factors]
        return loss, self._units.sums(found, problem.source.shape.head_dim)

    def _layer(self, index: int, state: torch.Tensor, factors: Factors | None) -> torch.Tensor:
        """Returns the stream after a layer, [B, T, D]."""
        weights, runner = self._problem.layers[index], self._problem.runner.at(index)
        if factors is None:
            return runner.layer(weights, state)
        for kind, values in zip(BLOCK_KINDS, factors[2 * index : 2 * index + 2], strict=True):
            if values is None:
                state = runner.block(kind, {}, state)
                continue
            state = runner.finish(kind, weights, state, runner.context(kind, weights, state) * values)
        return state

    def _factors(self, mask: np.ndarray) -> Factors:
        """Returns 1 for each column that a mask keeps of what an output projection reads, else 0."""
        head_dim, device = self._problem.source.shape.head_dim, self._problem.store.device
        found: list[torch.Tensor | None] = []
        for position, row in enumerate(mask):
            factors = torch.zeros(self._units.width(position, head_dim))
            factors[self._units.columns(position, row, head_dim)] = 1.0
            found.append(factors.to(device) if row[0] and row[1:].any() else None)
        return found
