"""The final pass: blocks reconstructed one after another, each correcting what the ones before it left.

A block reads the hidden states of the already compressed layers and its target is the dense model's residual
stream after the block, so that errors are corrected where they appear instead of adding up:

    What = (Y X^T + damping W0) (X X^T + damping I)^-1,  Y = W X_dense + (h_dense - h_subnet)

with X the input of the pruned projection in the subnet, W0 the closed-form reconstruction, and the damping
chosen on held-out windows. An output bias, where there is one, is solved with the weights. Where a norm
follows the projection, Y is the input that this norm needs (`output_projection.py`). Nothing is trained; it
takes one pass over the calibration text.
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
"""(runs the block on the text, its runner and kind, block) -> the refined block."""


def reconstruct_block(
    map_shards: MapShards, runner: BlockRunner, kind: BlockKind, pruned: Weights, refine: Refine | None = None
) -> dict[str, torch.Tensor]:
    """Returns a block with its output projection solved for the subnet's stream; experts' are left.

    Args:
        map_shards: Runs the block on the text, at its position in the streams.
        runner: Runs the block.
        kind: "attention" or "ffn".
        pruned: The block after the closed-form reconstruction.
        refine: Goes on from there with the whole block.
    """
    block = dict(pruned)
    if runner.projections(kind):
        block |= _solved(map_shards, runner, kind, pruned)
    return refine(map_shards, runner, kind, block) if refine else block


def _solved(
    map_shards: MapShards, runner: BlockRunner, kind: BlockKind, pruned: Weights
) -> dict[str, torch.Tensor]:
    """Returns the output projection's tensors that bring the subnet's stream nearest to the dense one."""
    name, sums = output(kind), dict[bool, Moments]()
    for part in map_shards(BlockPasses.moments, pruned):
        if part.heldout in sums:
            sums[part.heldout].add(part)
        else:
            sums[part.heldout] = part
    start, bias = pruned[f"{name}.weight"], pruned.get(f"{name}.bias")
    if bias is not None:
        start = torch.cat([start, bias[:, None]], 1)
    gain = norm_gain(runner.shape, pruned, kind)
    solved = _solve(start, sums, 1.0 if gain is None else gain.double().square()[:, None])
    if bias is None:
        return {f"{name}.weight": solved}
    return {f"{name}.weight": solved[:, :-1].contiguous(), f"{name}.bias": solved[:, -1].contiguous()}


def _solve(start: torch.Tensor, sums: dict[bool, Moments], row_weights: torch.Tensor | float) -> torch.Tensor:
    """Returns the ridge solution around `start` whose damping errs least on the held-out windows.

    Args:
        start: [D, n] the projection to stay near to.
        sums: Moments by whether they are of held-out windows.
        row_weights: [D, 1] weights of the squared errors of rows.
    """
    gram, cross, w0 = sums[False].gram.finalize(), sums[False].cross.finalize(), start.double()
    heldout_gram, heldout_cross = sums[True].gram.finalize(), sums[True].cross.finalize()
    scale = float(gram.diagonal().mean().clamp_min(1e-12))

    roots = row_weights**0.5
    few_cross, few_w0, few_heldout = (random_projection(roots * rows) for rows in (cross, w0, heldout_cross))

    def solution(factor: torch.Tensor, ridge: float, cross: torch.Tensor, w0: torch.Tensor) -> torch.Tensor:
        return torch.cholesky_solve((cross + ridge * w0).T, factor).T

    def attempt(damping: float) -> tuple[float, Callable[..., torch.Tensor] | None]:
        factor, failed = torch.linalg.cholesky_ex(damped(gram, damping))
        if failed:
            return math.inf, None
        solve = partial(solution, factor, damping * scale)
        w = solve(few_cross, few_w0)
        return float((w * (w @ heldout_gram - 2 * few_heldout)).sum()), solve

    _, solve = best_damping(DAMPINGS, attempt)
    return start if solve is None else solve(cross, w0).to(start.dtype)
