"""Backward elimination: remove what costs least after everything else is re-solved; repeat.

With P = (G')^-1 of the columns still there and W the weights re-solved for them, removing the set S
and re-solving costs tr(W_S (P_SS)^-1 W_S^T) (optimal brain surgeon for a block, exact for the damped
least-squares problem). The removal updates P and W^T W by block Gaussian elimination; W itself is not needed.
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
"""Steps after which their removals are applied to P and W^T W at once, as one matrix product."""


def eliminate(weight: torch.Tensor, gram: torch.Tensor, block: int, per_step: int = 1) -> torch.Tensor:
    """Ranks the n / block blocks of columns, most valuable first: [n / block].

    Args:
        weight: [D, n] output projection.
        gram: [n, n] float64 of its input, damped; it is overwritten.
        block: columns that go together.
        per_step: blocks removed before costs are computed again.
    """
    alive, w = torch.arange(len(gram) // block), weight.double()
    torch.linalg.cholesky(gram, out=gram)
    p, m = torch.cholesky_inverse(gram, out=gram), w.T @ w
    removed: list[torch.Tensor] = []
    while len(alive):
        steps, p, m = _panel(p, m, block, per_step)
        removed += [alive[gone] for gone in steps]
        keep = torch.ones(len(alive), dtype=torch.bool)
        keep[torch.cat(steps)] = False
        alive = alive[keep]
    return torch.cat([r.flip(0) for r in reversed(removed)])


def _panel(
    p: torch.Tensor, m: torch.Tensor, block: int, per_step: int
) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Some steps: the blocks that each removes, by their place, and P and M = W^T W, [n, n], of those left.

    A step that removes the columns S leaves P - U V^T and W - W_S V^T, U = P[:, S] and V = U (P_SS)^-1, so
    M - E V^T - V E^T with E = M[:, S] - V M_SS / 2. Within a panel, U, V and E are only collected; what costs
    are made of, the diagonal blocks of P and M, is kept up to date.
    """
    count, columns, most = len(p) // block, torch.arange(block), min(_PANEL * per_step * block, len(p))
    diagonal, squares = _diagonal(p, block), _diagonal(m, block)
    here, steps, end = torch.ones(count, dtype=torch.bool), list[torch.Tensor](), 0
    us, vs, es = (p.new_empty(len(p), most) for _ in range(3))
    while here.any() and len(steps) < _PANEL:
        costs = _costs(diagonal, squares).masked_fill(~here, torch.inf)
        gone = costs.argsort(stable=True)[: min(per_step, int(here.sum()))]
        at = (gone[:, None] * block + columns).reshape(-1)
        u_then, v_then, e_then = (tall[:, :end] for tall in (us, vs, es))
        u = p[at].T - u_then @ v_then[at].T
        v = torch.linalg.solve(u[at], u, left=False)
        cross = m[at].T - e_then @ v_then[at].T - v_then @ e_then[at].T
        e = cross - v @ cross[at] / 2
        u_b, v_b, e_b = (tall.view(count, block, -1) for tall in (u, v, e))
        diagonal -= u_b @ v_b.mT
        moved = e_b @ v_b.mT
        squares -= moved + moved.mT
        new, end = slice(end, end + len(at)), end + len(at)
        us[:, new], vs[:, new], es[:, new] = u, v, e
        here[gone] = False
        diagonal[gone] = torch.eye(block, dtype=p.dtype)
        steps.append(gone)
    kept = here.repeat_interleave(block).nonzero()[:, 0]
    u, v, e = (tall[kept, :end] for tall in (us, vs, es))
    p = p[kept[:, None], kept].addmm_(u, v.T, alpha=-1)
    return steps, p, m[kept[:, None], kept].addmm_(e, v.T, alpha=-1).addmm_(v, e.T, alpha=-1)


def _costs(diagonal: torch.Tensor, squares: torch.Tensor) -> torch.Tensor:
    """[blocks]: of removing each, tr((P_SS)^-1 (W^T W)_SS), from both [blocks, b, b]."""
    if diagonal.shape[1] == 1:
        return (squares / diagonal).flatten()
    return torch.linalg.solve(diagonal, squares).diagonal(dim1=1, dim2=2).sum(1)


def _diagonal(square: torch.Tensor, block: int) -> torch.Tensor:
    """[blocks, b, b]: the diagonal blocks of a matrix."""
    index = torch.arange(len(square) // block)
    return square.view(len(index), block, len(index), block)[index, :, index, :].clone()


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
