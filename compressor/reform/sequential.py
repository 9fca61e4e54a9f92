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
from dataclasses import dataclass, field
from functools import partial

import torch

from compressor.forward import BlockRunner, Weights
from compressor.projection import gains, output, token_weights, wanted
from compressor.reform.closed_form import damped, sketch
from compressor.room import Room, Rows
from compressor.statistics.collect import batches
from compressor.statistics.gram import CrossGram, Gram

DAMPINGS = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)


@dataclass
class Streams:
    """Residual streams [B, T, D] of the dense model and the subnet over the same windows. `apart`: whether
    they may differ yet. room: where they are kept."""

    dense: Rows
    subnet: Rows
    apart: bool = False
    room: Room = field(default_factory=Room)

    def moved(
        self, step: Callable[[torch.Tensor], torch.Tensor], stream: Rows, heldout: torch.Tensor
    ) -> Rows:
        """One of them past a block."""
        return self.room.mapped(stream, batches(heldout), step)


Refine = Callable[
    [BlockRunner, str, Weights, Rows, Rows, torch.Tensor], dict[str, torch.Tensor]
]
"""(runner, kind, block, stream before it, target after it, held-out windows) -> the block, better."""


@torch.no_grad()
def reform_block(
    runner: BlockRunner,
    kind: str,
    dense: Weights,
    cut: Weights,
    streams: Streams,
    heldout: torch.Tensor,
    refine: Refine | None = None,
) -> dict[str, torch.Tensor]:
    """A block's tensors with the output projection re-solved; moves both streams past the block.

    Args:
        kind: "attention" or "ffn". cut: the block after the closed-form reform; empty if dropped.
        heldout: [B] bool. refine: goes on from there with the whole block.
    """
    run = runner.attention if kind == "attention" else runner.ffn
    name = output(runner.family, kind)
    after = streams.moved(partial(run, dense), streams.dense, heldout)
    block = dict(cut)
    streams.apart |= not block or block[f"{name}.weight"].shape != dense[f"{name}.weight"].shape
    if block and streams.apart:
        if runner.projections(kind):
            block |= _solved(runner, kind, cut, streams, after, heldout)
        if refine:
            block = refine(runner, kind, block, streams.subnet, after, heldout)
    if block:
        streams.subnet = streams.moved(partial(run, block), streams.subnet, heldout)
    streams.dense = after
    return block


@torch.no_grad()
def advance(
    runner: BlockRunner, dense: Weights, finished: Weights, streams: Streams, heldout: torch.Tensor
) -> None:
    """Move both streams past a layer that an earlier run has finished."""
    for run in (runner.attention, runner.ffn):
        streams.dense = streams.moved(partial(run, dense), streams.dense, heldout)
        streams.subnet = streams.moved(partial(run, finished), streams.subnet, heldout)
    streams.apart = True


def _solved(
    runner: BlockRunner,
    kind: str,
    cut: Weights,
    streams: Streams,
    after: Rows,
    heldout: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """The output projection's tensors that bring the subnet's stream nearest to the dense one, whose state
    after the block is `after`."""
    name = output(runner.family, kind)
    context = runner.attention_context if kind == "attention" else runner.ffn_context
    start, bias = cut[f"{name}.weight"], cut.get(f"{name}.bias")
    if bias is not None:
        start = torch.cat([start, bias[:, None]], 1)
    grams = {apart: Gram(start.shape[1]) for apart in (False, True)}
    crosses = {apart: CrossGram(*start.shape) for apart in (False, True)}
    for part in batches(heldout):
        apart, read = bool(heldout[part[0]]), context(cut, streams.subnet[part])
        weighed = token_weights(runner, runner.project(cut, name, read))
        if bias is not None:
            read = torch.cat([read, torch.ones_like(read[..., :1])], -1)
        grams[apart].add_batch(read * weighed)
        dense, missing = (
            runner.stream(after[part]) - runner.stream(before[part])
            for before in (streams.dense, streams.subnet)
        )
        crosses[apart].add_batch(wanted(runner, cut, kind, dense, missing), read * weighed)
    gain = gains(runner.family, runner.shape, cut, kind)
    found = _solve(start, grams, crosses, 1.0 if gain is None else gain.double().square()[:, None])
    if bias is None:
        return {f"{name}.weight": found}
    return {f"{name}.weight": found[:, :-1].contiguous(), f"{name}.bias": found[:, -1].contiguous()}


def _solve(
    start: torch.Tensor,
    grams: dict[bool, Gram],
    crosses: dict[bool, CrossGram],
    counts: torch.Tensor | float,
) -> torch.Tensor:
    """The ridge solution around `start` whose damping errs least on the held-out windows. counts: [D, 1],
    what the square of a row's error counts."""
    gram, cross, w0 = grams[False].mean(), crosses[False].mean(), start.double()
    held, held_cross = grams[True].mean(), crosses[True].mean()
    scale = gram.diagonal().mean().clamp_min(1e-12)

    def solution(damping: float, cross: torch.Tensor, w0: torch.Tensor) -> torch.Tensor | None:
        factor, failed = torch.linalg.cholesky_ex(damped(gram, damping))
        if failed:
            return None
        return torch.cholesky_solve((cross + damping * scale * w0).T, factor).T

    counted = counts**0.5
    few = [sketch(counted * rows) for rows in (cross, w0, held_cross)]

    def error(damping: float) -> float:
        w = solution(damping, few[0], few[1])
        return math.inf if w is None else float((w * (w @ held - 2 * few[2])).sum())

    found = solution(min(DAMPINGS, key=error), cross, w0)
    return start if found is None else found.to(start.dtype)
