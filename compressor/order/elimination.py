"""Backward elimination: remove what costs least after everything else is re-solved; repeat.

With P = (G')^-1 of the columns still there and W the weights re-solved for them, removing the set S
and re-solving costs tr(W_S (P_SS)^-1 W_S^T) (optimal brain surgeon for a block, exact for the damped
least-squares problem). The removal updates W and P by block Gaussian elimination.
"""

from __future__ import annotations

import torch

from compressor.families import Family
from compressor.forward import Weights
from compressor.order.base import orders
from compressor.plan import ModelShape
from compressor.projection import seen
from compressor.reform import damped
from compressor.statistics import LayerStatistics
from compressor.surgery import LayerOrder

_DAMPING = 1e-3
_STEPS = 512


def eliminate(weight: torch.Tensor, gram: torch.Tensor, block: int, per_step: int = 1) -> torch.Tensor:
    """Ranks the n / block blocks of columns, most valuable first: [n / block].

    Args:
        weight: [D, n] output projection.
        gram: [n, n] float64 of its input, damped.
        block: columns that go together.
        per_step: blocks removed before costs are computed again.
    """
    w = weight.double().clone()
    p = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    alive = torch.arange(len(gram) // block)
    removed: list[torch.Tensor] = []
    while len(alive):
        gone = _costs(w, p, block).argsort(stable=True)[: min(per_step, len(alive))]
        removed.append(alive[gone])
        keep = torch.ones(len(alive), dtype=torch.bool)
        keep[gone] = False
        w, p = _remove(w, p, keep.repeat_interleave(block))
        alive = alive[keep]
    return torch.cat([r.flip(0) for r in reversed(removed)])


def _costs(w: torch.Tensor, p: torch.Tensor, block: int) -> torch.Tensor:
    if block == 1:
        return w.square().sum(0) / p.diagonal()
    count = len(p) // block
    index = torch.arange(count)
    diagonal = p.view(count, block, count, block)[index, :, index, :]
    columns = w.view(len(w), count, block).permute(1, 2, 0)
    return (columns * torch.linalg.solve(diagonal, columns)).sum((1, 2))


def _remove(w: torch.Tensor, p: torch.Tensor, keep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    gone = ~keep
    factor = torch.linalg.solve(p[gone][:, gone], p[gone][:, keep])
    return w[:, keep] - w[:, gone] @ factor, p[keep][:, keep] - p[keep][:, gone] @ factor


@orders.register("elimination")
def elimination(
    family: Family, shape: ModelShape, weights: Weights, statistics: LayerStatistics
) -> LayerOrder:
    o, down = (seen(family, shape, weights, kind) for kind in ("attention", "ffn"))
    attention, per_group = damped(statistics.attention, _DAMPING), shape.layer.heads_per_group
    groups = eliminate(o, attention, shape.head_dim * per_group)
    rank = eliminate(o, attention, shape.head_dim).argsort().view(-1, per_group)
    first = torch.arange(len(groups))[:, None] * per_group
    return LayerOrder(groups, first + rank.argsort(1), _channels(down, damped(statistics.ffn, _DAMPING)))


def _channels(down: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    """Channels ranked, [F]; of experts, each by itself, [E, F]."""
    width = gram.shape[-1]
    if gram.dim() == 2:
        return eliminate(down, gram, 1, max(1, width // _STEPS))
    parts = enumerate(zip(down.split(width, 1), gram, strict=True))
    return torch.stack([expert * width + _channels(own, own_gram) for expert, (own, own_gram) in parts])
