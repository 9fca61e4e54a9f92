"""Backward elimination: remove the units that cost least after the rest is solved anew; repeat.

With P = (G')^-1 of the remaining columns and W the weights solved for them, removing the set S and solving
anew costs tr(W_S (P_SS)^-1 W_S^T) (optimal brain surgeon for a block, exact for the damped least-squares
problem). The removal updates P and W by block Gaussian elimination. Random combinations of the rows of a wide
W stand for all of them, as costs are sums over rows.
"""

from __future__ import annotations

import torch

from lathe.artefact.plan import BLOCK_KINDS, ModelShape
from lathe.compressor.compute.device import CPU
from lathe.compressor.compute.solve_each import solve_each
from lathe.compressor.importance.base import importance_methods
from lathe.compressor.importance.experts import rank_experts
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.output_projection import norm_scaled_weight
from lathe.compressor.model.pruning import ImportanceRanking
from lathe.compressor.reconstruction import damped, random_projection
from lathe.compressor.statistics import LayerStatistics

_DAMPING = 1e-3
_STEPS = 256
_PANEL = 16
"""Steps after which their removals are applied to P and W at once, as one matrix product."""
_ROWS = 512
"""The most rows of W; costs are then within some 6 %."""


def eliminate(weight: torch.Tensor, gram: torch.Tensor, group_size: int, per_step: int = 1) -> torch.Tensor:
    """Ranks the n / group_size groups of columns, most valuable first.

    Args:
        weight: [D, n] output projection.
        gram: [n, n] float64 Gram matrix of its input, damped; it is overwritten.
        group_size: The number of columns that go together.
        per_step: The number of groups removed before costs are computed again.

    Returns:
        [n / group_size] indices of groups, on the CPU.
    """
    alive, w = torch.arange(len(gram) // group_size, device=gram.device), random_projection(weight, _ROWS)
    torch.linalg.cholesky(gram, out=gram)
    p = torch.cholesky_inverse(gram, out=gram)
    removed: list[torch.Tensor] = []
    while len(alive):
        steps, p, w = _panel(p, w, group_size, per_step)
        removed += [alive[gone] for gone in steps]
        keep = torch.ones_like(alive, dtype=torch.bool)
        keep[torch.cat(steps)] = False
        alive = alive[keep]
    return torch.cat([r.flip(0) for r in reversed(removed)]).to(CPU)


def _panel(
    p: torch.Tensor, w: torch.Tensor, group_size: int, per_step: int
) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Takes some steps; returns the groups that each removes, and P [n, n] and W [D, n] of those left.

    A step that removes the columns S leaves P - U V^T and W - W_S V^T, U = P[:, S] and V = U (P_SS)^-1.
    Within a panel, U, V and W_S are only collected; the diagonal blocks of P and M = W^T W, which give the
    costs, are kept up to date: M becomes M - E V^T - V E^T, E = M[:, S] - V M_SS / 2.
    """
    count, most = len(p) // group_size, min(_PANEL * per_step * group_size, len(p))
    columns = torch.arange(group_size, device=p.device)
    diagonal, squares = _diagonal(p, group_size), _squares(w, group_size)
    here, steps, end = torch.ones(count, dtype=torch.bool, device=p.device), list[torch.Tensor](), 0
    us, vs, ws = (p.new_empty(rows, most) for rows in (len(p), len(p), len(w)))
    while here.any() and len(steps) < _PANEL:
        costs = _costs(diagonal, squares).masked_fill(~here, torch.inf)
        gone = costs.argsort(stable=True)[: min(per_step, int(here.sum()))]
        at = (gone[:, None] * group_size + columns).reshape(-1)
        u_then, v_then, w_then = (tall[:, :end] for tall in (us, vs, ws))
        u, own = p[at].T - u_then @ v_then[at].T, w[:, at] - w_then @ v_then[at].T
        v = torch.linalg.solve(u[at], u, left=False)
        cross = w.T @ own - v_then @ (w_then.T @ own)
        e = cross - v @ cross[at] / 2
        u_b, v_b, e_b = (tall.view(count, group_size, -1) for tall in (u, v, e))
        diagonal -= u_b @ v_b.mT
        moved = e_b @ v_b.mT
        squares -= moved + moved.mT
        new, end = slice(end, end + len(at)), end + len(at)
        us[:, new], vs[:, new], ws[:, new] = u, v, own
        here[gone] = False
        diagonal[gone] = torch.eye(group_size, dtype=p.dtype, device=p.device)
        steps.append(gone)
    kept = here.repeat_interleave(group_size).nonzero()[:, 0]
    u, v = (tall[kept, :end] for tall in (us, vs))
    p = p[kept[:, None], kept].addmm_(u, v.T, alpha=-1)
    return steps, p, w[:, kept].addmm_(ws[:, :end], v.T, alpha=-1)


def _costs(diagonal: torch.Tensor, squares: torch.Tensor) -> torch.Tensor:
    """Returns the costs of removing each group, tr((P_SS)^-1 (W^T W)_SS), from both [groups, b, b]."""
    if diagonal.shape[1] == 1:
        return (squares / diagonal).flatten()
    return solve_each(diagonal, squares).diagonal(dim1=1, dim2=2).sum(1)


def _diagonal(square: torch.Tensor, group_size: int) -> torch.Tensor:
    """Returns the diagonal blocks of a matrix, [groups, b, b]."""
    index = torch.arange(len(square) // group_size, device=square.device)
    return square.view(len(index), group_size, len(index), group_size)[index, :, index, :].clone()


def _squares(w: torch.Tensor, group_size: int) -> torch.Tensor:
    """Returns the diagonal blocks of W^T W, [groups, b, b]."""
    parts = w.T.reshape(-1, group_size, len(w))
    return parts @ parts.mT


@importance_methods.register("elimination")
def elimination(shape: ModelShape, weights: Weights, statistics: LayerStatistics) -> ImportanceRanking:
    """Ranks groups, heads and channels by backward elimination, and experts by `rank_experts`."""
    o, down = (norm_scaled_weight(shape, weights, kind) for kind in BLOCK_KINDS)
    per_group = shape.layer.heads_per_group
    groups = eliminate(o, damped(statistics.attention, _DAMPING), shape.head_dim * per_group)
    rank = eliminate(o, damped(statistics.attention, _DAMPING), shape.head_dim).argsort()
    rank = rank.view(-1, per_group)
    first = torch.arange(len(groups))[:, None] * per_group
    channels = _channels(down, damped(statistics.ffn, _DAMPING))
    if not shape.experts:
        return ImportanceRanking(groups, first + rank.argsort(1), channels)
    sample = statistics.expert_logits, statistics.expert_products
    experts = rank_experts(*sample, shape.experts_per_token, shape.norm_topk_prob)
    return ImportanceRanking(groups, first + rank.argsort(1), channels, experts)


def _channels(down: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    """Ranks channels, [F]; of experts, those of each by themselves, [E, F]."""
    width = gram.shape[-1]
    if gram.dim() == 2:
        return eliminate(down, gram, 1, max(1, width // _STEPS))
    parts = enumerate(zip(down.split(width, 1), gram, strict=True))
    return torch.stack([expert * width + _channels(own, own_gram) for expert, (own, own_gram) in parts])
