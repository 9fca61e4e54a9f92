"""The dense model with masks on what its output projections read, and what its predictions lose by them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from lathe.artefact.plan import BLOCK_KINDS
from lathe.compressor.calibration.tokens import evenly_spaced
from lathe.compressor.compute.precision import products
from lathe.compressor.model.lm_head import DenseTargets
from lathe.compressor.search.method import Problem
from lathe.compressor.search.policy.units import Units

LENGTH, ROWS = 128, 4
"""Tokens of a window, and windows of a batch."""
_HELDOUT_TOKENS = 2048
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
        return self._windows(self._problem.fitted).split(ROWS)

    @cached_property
    def _heldout(self) -> Sequence[torch.Tensor]:
        windows = self._windows(self._problem.windows)
        return evenly_spaced(windows, max(1, _HELDOUT_TOKENS // windows.shape[1])).split(ROWS)

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
        state = problem.embedding[batch]
        with products(problem.store.device, bfloat16):
            for index, weights in enumerate(problem.layers):
                runner = problem.runner.at(index)
                if mask is None:
                    state = runner.layer(weights, state)
                    continue
                for position, kind in enumerate(BLOCK_KINDS, 2 * index):
                    row = mask[position]
                    if not (row[0] and row[1:].any()):
                        state = runner.block(kind, {}, state)
                        continue
                    context = runner.context(kind, weights, state)
                    state = runner.finish(
                        kind, weights, state, context * self._factors(position, row, context)
                    )
        return state

    def _factors(self, position: int, row: np.ndarray, context: torch.Tensor) -> torch.Tensor:
        """Returns 1 for each column [n] that a row of a mask keeps, else 0."""
        columns = self._units.columns(position, row, self._problem.source.shape.head_dim)
        factors = context.new_zeros(context.shape[-1])
        factors[columns.to(factors.device)] = 1.0
        return factors

    def _windows(self, windows: torch.Tensor) -> torch.Tensor:
        length = min(LENGTH, windows.shape[1])
        return windows.unfold(1, length, length).reshape(-1, length)
