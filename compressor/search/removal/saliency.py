"""First-order saliency (GISP, arXiv 2510.18030): the sum of |w dL/dw| over the weights that a unit owns.

L is the mean loss in predicting text. A query head owns its rows of q and its columns of o, a KV head its
rows of k and v, a channel its rows of gate and up and its column of down. Biases and norms do not count.

Shapes: N query heads, K KV heads, F channels of the dense layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from lathe.artefact.plan import BLOCK_KINDS
from lathe.compressor.compute.precision import fast_products
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.loss_gradients import loss_gradients
from lathe.compressor.model.names import DOWN_PROJ, GATE_PROJ, K_PROJ, O_PROJ, Q_PROJ, UP_PROJ, V_PROJ
from lathe.compressor.model.pruning import Selection, prune_attention, prune_ffn
from lathe.compressor.search.method import Problem
from lathe.compressor.search.short_text import ROWS, heldout_windows

_IN_DIM, _OUT_DIM = 1, 0


@dataclass(frozen=True)
class Saliency:
    """The saliency of one layer's units by their dense indices, float64; zero where they are gone.

    Attributes:
        queries: [N]
        groups: [K] of KV heads, without their query heads.
        channels: [F]
    """

    queries: torch.Tensor
    groups: torch.Tensor
    channels: torch.Tensor


def owned_by_heads(
    values: Mapping[str, torch.Tensor], queries: int, groups: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns sums of a value per weight: [queries] over rows of q and columns of o, [groups] of k and v."""
    by_query = _sums(values, {Q_PROJ: _IN_DIM, O_PROJ: _OUT_DIM})
    by_group = _sums(values, {K_PROJ: _IN_DIM, V_PROJ: _IN_DIM})
    return by_query.view(queries, -1).sum(1), by_group.view(groups, -1).sum(1)


def owned_by_channels(values: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Returns sums [channels] of a value per weight over rows of gate and up and columns of down."""
    return _sums(values, {GATE_PROJ: _IN_DIM, UP_PROJ: _IN_DIM, DOWN_PROJ: _OUT_DIM})


def _sums(values: Mapping[str, torch.Tensor], dims: Mapping[str, int]) -> torch.Tensor:
    named = [(values[f"{name}.weight"], dim) for name, dim in dims.items() if f"{name}.weight" in values]
    return torch.stack([value.sum(dim, dtype=torch.float64) for value, dim in named]).sum(0)


class PrunedModel:
    """The dense model without some heads and channels, all other weights as they were.

    Args:
        problem: The problem.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._pruned: dict[int, tuple[Selection, Weights]] = {}

    def saliency(self, kept: Sequence[Selection], windows_BT: torch.Tensor) -> tuple[float, list[Saliency]]:
        """Returns the loss on windows in nats per token, and the saliency of each layer's units there."""
        problem, leaves = self._problem, dict[str, torch.Tensor]()

        def run(index: int, hidden: torch.Tensor) -> torch.Tensor:
            runner, weights = problem.runner.at(index), self._layer(index, kept[index])
            if torch.is_grad_enabled():
                leaves.clear()
                names = [name for kind in BLOCK_KINDS for name in runner.projections(kind) if name in weights]
                leaves.update({name: weights[name].detach().requires_grad_() for name in names})
            with fast_products(problem.store.device):
                return runner.layer({**weights, **leaves}, hidden)

        hidden = problem.embedding[windows_BT]
        loss, done = loss_gradients(problem.head, run, len(kept), hidden, windows_BT)
        found = [self._owned(kept[index], leaves) for index in done]
        return loss, found[::-1]

    @torch.inference_mode()
    def heldout_kl(self, kept: Sequence[Selection]) -> float:
        """Returns KL(dense || pruned) in nats per token on text that nothing is fitted to."""
        problem, total = self._problem, 0.0
        windows = heldout_windows(problem)
        for part in windows.split(ROWS):
            dense = pruned = problem.embedding[part]
            for index, selection in enumerate(kept):
                runner = problem.runner.at(index)
                dense = runner.layer(problem.layers[index], dense)
                pruned = runner.layer(self._layer(index, selection), pruned)
            total += problem.head.kl(problem.head.targets(dense), pruned) * len(part)
        return total / len(windows)

    def _layer(self, index: int, kept: Selection) -> Weights:
        """Returns a layer's tensors; the last ones of each layer are kept unless memory is bounded."""
        known = self._pruned.get(index)
        if known and known[0] is kept:
            return known[1]
        dense, shape = self._problem.layers[index], self._problem.source.shape
        made = {**prune_attention(shape, dense, kept), **prune_ffn(dense, kept)}
        if not self._problem.store.bounded:
            self._pruned[index] = kept, made
        return made

    def _owned(self, kept: Selection, leaves: Mapping[str, torch.Tensor]) -> Saliency:
        slopes = {name: (w.detach() * w.grad).abs() for name, w in leaves.items() if w.grad is not None}
        layer = self._problem.source.shape.layer
        queries, groups, channels = (
            torch.zeros(count, dtype=torch.float64)
            for count in (layer.query_heads, layer.kv_heads, layer.ffn)
        )
        if len(kept.kv_heads):
            by_query, by_group = owned_by_heads(slopes, len(kept.query_heads), len(kept.kv_heads))
            queries[kept.query_heads], groups[kept.kv_heads] = by_query.cpu(), by_group.cpu()
        if len(kept.channels):
            channels[kept.channels] = owned_by_channels(slopes).cpu()
        return Saliency(queries, groups, channels)
