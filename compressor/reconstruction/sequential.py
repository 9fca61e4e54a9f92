"""The last pass: blocks reformed one after another, each mending what the ones before it left.

A block reads the hidden states of the already compressed layers and its target is the dense model's
residual stream after the block, so that errors are corrected where they appear instead of adding up:

    What = (Y X^T + damping W0) (X X^T + damping I)^-1,  Y = W X_dense + (h_dense - h_subnet)

with X what the cut projection reads in the subnet, W0 the closed-form reform and the damping chosen on
held-out windows. An output bias, where there is one, is solved with the weights. Where a norm follows the
projection, Y is what that norm has to be given (`projection.py`). Nothing is trained; one pass over the
calibration text.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch

from lathe.artefact.plan import BlockKind
from lathe.compressor.model.block_runner import BlockRunner, Weights
from lathe.compressor.model.output_projection import norm_gain, output
from lathe.compressor.reconstruction.block_moments import BlockPasses, MapShards, Moments
from lathe.compressor.reconstruction.closed_form import best_damping, damped, random_projection

DAMPINGS = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)

Refine = Callable[[MapShards, BlockRunner, BlockKind, Weights], dict[str, torch.Tensor]]
"""(who runs the block, its runner and kind, block) -> the block, better."""


def reconstruct_block(
    map_shards: MapShards, runner: BlockRunner, kind: BlockKind, cut: Weights, refine: Refine | None = None
) -> dict[str, torch.Tensor]:
    """A block's tensors with the output projection re-solved, but of experts.

    Args:
        map_shards: runs a method on every shard. kind: "attention" or "ffn".
        cut: the block after the closed-form reform. refine: goes on from there with the whole block.
    """
    block = dict(cut)
    if runner.projections(kind):
        block |= _solved(map_shards, runner, kind, cut)
    return refine(map_shards, runner, kind, block) if refine else block


def _solved(
    map_shards: MapShards, runner: BlockRunner, kind: BlockKind, cut: Weights
) -> dict[str, torch.Tensor]:
    """The output projection's tensors that bring the subnet's stream nearest to the dense one."""
    name, sums = output(kind), dict[bool, Moments]()
    for found in map_shards(BlockPasses.moments, cut):
        if found.heldout in sums:
            sums[found.heldout].add(found)
        else:
            sums[found.heldout] = found
    start, bias = cut[f"{name}.weight"], cut.get(f"{name}.bias")
    if bias is not None:
        start = torch.cat([start, bias[:, None]], 1)
    gain = norm_gain(runner.shape, cut, kind)
    solved = _solve(start, sums, 1.0 if gain is None else gain.double().square()[:, None])
    if bias is None:
        return {f"{name}.weight": solved}
    return {f"{name}.weight": solved[:, :-1].contiguous(), f"{name}.bias": solved[:, -1].contiguous()}


def _solve(start: torch.Tensor, sums: dict[bool, Moments], counts: torch.Tensor | float) -> torch.Tensor:
    """The ridge solution around `start` whose damping errs least on the held-out windows. counts: [D, 1],
    what the square of a row's error counts.
    """
    gram, cross, w0 = sums[False].gram.mean(), sums[False].cross.mean(), start.double()
    held, held_cross = sums[True].gram.mean(), sums[True].cross.mean()
    scale = float(gram.diagonal().mean().clamp_min(1e-12))

    counted = counts**0.5
    few_cross, few_w0, few_held = (random_projection(counted * rows) for rows in (cross, w0, held_cross))

    def solution(factor: torch.Tensor, ridge: float, cross: torch.Tensor, w0: torch.Tensor) -> torch.Tensor:
        return torch.cholesky_solve((cross + ridge * w0).T, factor).T

    def attempt(damping: float) -> tuple[float, Callable[..., torch.Tensor] | None]:
        factor, failed = torch.linalg.cholesky_ex(damped(gram, damping))
        if failed:
            return math.inf, None
        solve = partial(solution, factor, damping * scale)
        w = solve(few_cross, few_w0)
        return float((w * (w @ held - 2 * few_held)).sum()), solve

    _, solve = best_damping(DAMPINGS, attempt)
    return start if solve is None else solve(cross, w0).to(start.dtype)
