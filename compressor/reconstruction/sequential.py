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
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

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
    map_shards: MapShards,
    runner: BlockRunner,
    kind: BlockKind,
    pruned: Weights,
    refine: Refine | None = None,
    dampings: Sequence[float] = DAMPINGS,
    worthwhile: float = 0.0,
) -> dict[str, torch.Tensor]:
    """Returns a block with its output projection solved for the subnet's stream; experts' are left.

    Args:
        map_shards: Runs the block on the text, at its position in the streams.
        runner: Runs the block.
        kind: "attention" or "ffn".
        pruned: The block after the closed-form reconstruction.
        refine: Goes on from there with the whole block.
        dampings: Those that are tried.
        worthwhile: As in `solve_output`.
    """
    block = dict(pruned)
    if runner.projections(kind):
        sums = measure_output(map_shards, pruned)
        block |= split_output(kind, solve_output(sums, runner, kind, pruned, dampings, worthwhile), pruned)
    return refine(map_shards, runner, kind, block) if refine else block


class OutputMoments(NamedTuple):
    """Mean moments around a block's output projection, float64, on windows to fit and on those held out.

    Attributes:
        gram: Of its input, with one more column for a bias, where it has one, [n, n].
        cross: Of its target output with its input, [D, n].
        heldout_gram: As `gram`.
        heldout_cross: As `cross`.
    """

    gram: torch.Tensor
    cross: torch.Tensor
    heldout_gram: torch.Tensor
    heldout_cross: torch.Tensor


def measure_output(map_shards: MapShards, block: Weights) -> OutputMoments:
    """Measures the moments around a block's output projection."""
    sums = dict[bool, Moments]()
    for part in map_shards(BlockPasses.moments, block):
        if part.heldout in sums:
            sums[part.heldout].add(part)
        else:
            sums[part.heldout] = part
    fitted, heldout = sums[False], sums[True]
    return OutputMoments(
        fitted.gram.finalize(), fitted.cross.finalize(), heldout.gram.finalize(), heldout.cross.finalize()
    )


def solve_output(
    moments: OutputMoments,
    runner: BlockRunner,
    kind: BlockKind,
    block: Weights,
    dampings: Sequence[float] = DAMPINGS,
    worthwhile: float = 0.0,
) -> torch.Tensor:
    """Returns the output projection that brings the subnet's stream nearest to the dense one, [D, n].

    An output bias is its last column.

    Args:
        moments: Around the block's projection.
        runner: Runs the block.
        kind: "attention" or "ffn".
        block: Its tensors.
        dampings: Those that are tried.
        worthwhile: The projection stays as it is where another one gains less than this share of the squares
            that it explains, on held-out windows. 0: it never does.
    """
    start, bias = block[f"{output(kind)}.weight"], block.get(f"{output(kind)}.bias")
    if bias is not None:
        start = torch.cat([start, bias[:, None]], 1)
    gain = norm_gain(runner.shape, block, kind)
    row_weights = 1.0 if gain is None else gain.double().square()[:, None]
    return _solve(start, moments, row_weights, dampings, worthwhile)


def split_output(kind: BlockKind, solved: torch.Tensor, block: Weights) -> dict[str, torch.Tensor]:
    """Returns a block's output projection, and its bias where the block has one, by name."""
    name = output(kind)
    if f"{name}.bias" not in block:
        return {f"{name}.weight": solved}
    return {f"{name}.weight": solved[:, :-1].contiguous(), f"{name}.bias": solved[:, -1].contiguous()}


def _solve(
    start: torch.Tensor,
    moments: OutputMoments,
    row_weights: torch.Tensor | float,
    dampings: Sequence[float],
    worthwhile: float,
) -> torch.Tensor:
    """Returns the ridge solution around `start` whose damping errs least on the held-out windows.

    Args:
        start: [D, n] the projection to stay near to.
        moments: Around it.
        row_weights: [D, 1] weights of the squared errors of rows.
        dampings: Those that are tried.
        worthwhile: As in `solve_output`.
    """
    (gram, cross, heldout_gram, heldout_cross), w0 = moments, start.double()
    scale = float(gram.diagonal().mean().clamp_min(1e-12))

    roots = row_weights**0.5
    few_cross, few_w0, few_heldout = (random_projection(roots * rows) for rows in (cross, w0, heldout_cross))

    def solution(factor: torch.Tensor, ridge: float, cross: torch.Tensor, w0: torch.Tensor) -> torch.Tensor:
        return torch.cholesky_solve((cross + ridge * w0).T, factor).T

    def error(w: torch.Tensor) -> float:
        return float((w * (w @ heldout_gram - 2 * few_heldout)).sum())

    def attempt(damping: float) -> tuple[float, tuple[float, Callable[..., torch.Tensor] | None]]:
        factor, failed = torch.linalg.cholesky_ex(damped(gram, damping))
        if failed:
            return math.inf, (math.inf, None)
        solve = partial(solution, factor, damping * scale)
        found = error(solve(few_cross, few_w0))
        return found, (found, solve)

    _, (lowest, solve) = best_damping(dampings, attempt)
    if solve is None or (worthwhile and error(few_w0) - lowest < worthwhile * abs(lowest)):
        return start
    return solve(cross, w0).to(start.dtype)
