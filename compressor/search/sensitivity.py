"""The effect of a change in one block on the output, to second order, for all blocks from one backward pass.

Let tokens be drawn from the dense model's own distribution, and let g_t be the gradient of their loss, summed
over a window, with respect to the residual stream at token t after a block. Then changes delta_t of that
stream give

    KL(dense || changed) = sum_t (g_t . delta_t)^2 / 2

of the window in expectation, to second order and with the changes of different tokens taken as independent
(Fisher information: Martens, arXiv 1412.1193). The time for replaying a change of each block through all
layers above grows with the square of their number; this grows with the number. It holds where changes are
small relative to the stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from lathe.artefact.plan import BLOCK_KINDS
from lathe.compressor.compute.array_store import ArrayLike, ArrayStore
from lathe.compressor.compute.precision import fast_products
from lathe.compressor.model.block_runner import BlockRunner, Weights
from lathe.compressor.model.lm_head import LMHead

ROWS = 4
"""Windows per batch."""
_SAMPLES = 2
"""Backward passes, each for other tokens."""
_HIGHER_ORDER = 5.0
"""The effect exceeds the second order by about so many times the change's relative size, by replays of two
small models (docs/experiments.md)."""


class SensitivityEstimate(NamedTuple):
    """The estimated effect of a change.

    Attributes:
        kl: KL(dense || changed) in nats per token: the second order, corrected by `_HIGHER_ORDER`.
        size: The mean over tokens of |delta|^2 / |stream|^2.
    """

    kl: float
    size: float


class FisherSensitivity:
    """Estimates the effect of changes from gradients at every block.

    Args:
        runner: Runs blocks.
        head: The dense model's final norm and LM head.
        states: [B, T, ...] states of the dense model, before each block and after the last.
        dense: Returns the dense blocks by position.
        store: Keeps gradients.
    """

    def __init__(
        self,
        runner: BlockRunner,
        head: LMHead,
        states: Sequence[ArrayLike],
        dense: Callable[[int], Weights],
        store: ArrayStore,
    ) -> None:
        self._runner, self._states, self._store = runner, states, store
        self._count = len(states[0])
        self._parts = torch.arange(self._count).split(ROWS)
        self._after = [self._at_the_head(head)]
        for position in reversed(range(1, len(states) - 1)):
            self._after.append(self._below(position, dense(position), self._after[-1]))
        self._after.reverse()

    def of(self, position: int, changed: ArrayLike) -> SensitivityEstimate:
        """Estimates the effect of replacing the dense block's output by this one, [B, T, ...]."""
        kl = size = 0.0
        for part in self._parts:
            dense = self._states[position + 1][part]
            delta = changed[part] - dense
            size += float((delta.square().sum(-1) / dense.square().sum(-1).clamp_min(1e-12)).sum())
            for at in self._samples(part):
                kl += float((self._after[position][at] * delta).sum(-1).square().sum())
        tokens = self._count * changed.shape[1]
        size /= tokens
        return SensitivityEstimate(kl / (2 * _SAMPLES * tokens) * (1 + _HIGHER_ORDER * size), size)

    def _at_the_head(self, head: LMHead) -> ArrayLike:
        """Returns the gradients after the last block, [samples * B, T, ...]."""
        gradients = self._like(self._states[-1])
        for part in self._parts:
            last = self._states[-1][part].clone().requires_grad_()
            with torch.enable_grad():
                normed = head.normed(last)
            for at in self._samples(part):
                with fast_products(last.device):
                    drawn = head.sampled_gradient(normed.detach(), torch.Generator().manual_seed(int(at[0])))
                (gradients[at],) = torch.autograd.grad(normed, [last], drawn, retain_graph=True)
        return gradients

    def _below(self, position: int, weights: Weights, above: ArrayLike) -> ArrayLike:
        """Returns the gradients before a block from those after it."""
        runner, kind = self._runner.at(position // 2), BLOCK_KINDS[position % 2]
        gradients = self._like(self._states[position])
        for part in self._parts:
            before = self._states[position][part].clone().requires_grad_()
            with torch.enable_grad(), fast_products(before.device):
                after = runner.block(kind, weights, before)
            for at in self._samples(part):
                (gradients[at],) = torch.autograd.grad(after, [before], above[at], retain_graph=True)
        return gradients

    def _like(self, states: ArrayLike) -> ArrayLike:
        return self._store.rows(_SAMPLES * len(states), *states.shape[1:])

    def _samples(self, part: torch.Tensor) -> list[torch.Tensor]:
        """Returns the indices of some windows' gradients, sample by sample."""
        return [number * self._count + part for number in range(_SAMPLES)]
