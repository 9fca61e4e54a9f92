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
from compressor.order.experts import rank_experts
from compressor.plan import ModelShape
from compressor.projection import seen
from compressor.reform import damped
from compressor.statistics import LayerStatistics
from compressor.surgery import LayerOrder

_DAMPING = 1e-3
_STEPS = 512
_PANEL = 32
"""Steps after which their removals are applied to P at once, as one matrix product."""


def eliminate(weight: torch.Tensor, gram: torch.Tensor, block: int, per_step: int = 1) -> torch.Tensor:
    """Ranks the n / block blocks of columns, most valuable first: [n / block].

    Args:
        weight: [D, n] output projection.
        gram: [n, n] float64 of its input, damped; it is overwritten.
        block: columns that go together.
        per_step: blocks removed before costs are computed again.
    """
    alive = torch.arange(len(gram) // block)
    torch.linalg.cholesky(gram, out=gram)
    w, p = weight.double(), torch.cholesky_inverse(gram, out=gram)
    removed: list[torch.Tensor] = []
    while len(alive):
        steps, w, p = _panel(w, p, block, per_step)
        removed += [alive[gone] for gone in steps]
        keep = torch.ones(len(alive), dtype=torch.bool)
        keep[torch.cat(steps)] = False
        alive = alive[keep]
    return torch.cat([r.flip(0) for r in reversed(removed)])


def _panel(
    w: torch.Tensor, p: torch.Tensor, block: int, per_step: int
) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Some steps: the blocks that each removes, by their place, and W and P of those left.

    A step that removes the columns S leaves P - U V and W - W_S V, U = P[:, S] and V = (P_SS)^-1 U^T. Within
    a panel, U, W_S and V are only collected; what costs are made of, the diagonal blocks of P and of W^T W,
    is kept up to date.
    """
    count, columns, most = len(p) // block, torch.arange(block), min(_PANEL * per_step * block, len(p))
    diagonal, squares = _diagonal(p.view(count, block, -1)), _squares(w, block)
    here, steps, end = torch.ones(count, dtype=torch.bool), list[torch.Tensor](), 0
    us, ws, vs = p.new_empty(len(p), most), p.new_empty(len(w), most), p.new_empty(most, len(p))
    while here.any() and len(steps) < _PANEL:
        costs = torch.linalg.solve(diagonal, squares).diagonal(dim1=1, dim2=2).sum(1)
        gone = costs.masked_fill(~here, torch.inf).argsort(stable=True)[: min(per_step, int(here.sum()))]
        at = (gone[:, None] * block + columns).reshape(-1)
        u, w_s = (now[:, at] - then[:, :end] @ vs[:end, at] for now, then in ((p, us), (w, ws)))
        v = torch.linalg.solve(u[at], u.T)
        cross = w_s.T @ w - (w_s.T @ ws[:, :end]) @ vs[:end]
        parts = v.view(-1, count, block).permute(1, 0, 2)
        diagonal -= u.view(count, block, -1) @ parts
        moved = cross.view(-1, count, block).permute(1, 2, 0) @ parts
        squares += parts.mT @ (cross[:, at] @ parts) - moved - moved.mT
        new, end = slice(end, end + len(at)), end + len(at)
        us[:, new], ws[:, new], vs[new] = u, w_s, v
        here[gone] = False
        diagonal[gone] = torch.eye(block, dtype=p.dtype)
        steps.append(gone)
    kept = here.repeat_interleave(block).nonzero()[:, 0]
    rest = p[kept][:, kept].addmm_(us[kept, :end], vs[:end, kept], alpha=-1)
    return steps, w[:, kept].addmm_(ws[:, :end], vs[:end, kept], alpha=-1), rest


def _diagonal(blocks: torch.Tensor) -> torch.Tensor:
    """[blocks, b, b]: the diagonal blocks of a matrix [blocks, b, blocks * b]."""
    count, block, _ = blocks.shape
    index = torch.arange(count)
    return blocks.view(count, block, count, block)[index, :, index, :].clone()


def _squares(w: torch.Tensor, block: int) -> torch.Tensor:
    """[blocks, b, b]: the diagonal blocks of W^T W."""
    columns = w.view(len(w), -1, block).permute(1, 2, 0)
    return columns @ columns.mT


@orders.register("elimination")
def elimination(
    family: Family, shape: ModelShape, weights: Weights, statistics: LayerStatistics
) -> LayerOrder:
    o, down = (seen(family, shape, weights, kind) for kind in ("attention", "ffn"))
    per_group = shape.layer.heads_per_group
    groups = eliminate(o, damped(statistics.attention, _DAMPING), shape.head_dim * per_group)
    rank = eliminate(o, damped(statistics.attention, _DAMPING), shape.head_dim).argsort()
    rank = rank.view(-1, per_group)
    first = torch.arange(len(groups))[:, None] * per_group
    channels = _channels(down, damped(statistics.ffn, _DAMPING))
    if not shape.experts:
        return LayerOrder(groups, first + rank.argsort(1), channels)
    routes = statistics.expert_logits, statistics.expert_products
    experts = rank_experts(*routes, shape.chosen, shape.normalised_shares)
    return LayerOrder(groups, first + rank.argsort(1), channels, experts)


def _channels(down: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    """Channels ranked, [F]; of experts, each by itself, [E, F]."""
    width = gram.shape[-1]
    if gram.dim() == 2:
        return eliminate(down, gram, 1, max(1, width // _STEPS))
    parts = enumerate(zip(down.split(width, 1), gram, strict=True))
    return torch.stack([expert * width + _channels(own, own_gram) for expert, (own, own_gram) in parts])
