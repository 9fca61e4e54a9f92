"""The last pass: blocks reformed one after another, each mending what the ones before it left.

A block reads the hidden states of the already compressed layers and its target is the dense model's
residual stream after the block, so that errors are corrected where they appear instead of adding up:

    What = (Y X^T + damping W0) (X X^T + damping I)^-1,  Y = W X_dense + (h_dense - h_subnet)

with X what the cut projection reads in the subnet, W0 the closed-form reform and the damping chosen on
held-out windows. Nothing is trained; one pass over the calibration text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from compressor.forward import BlockRunner, Weights
from compressor.statistics.collect import batches
from compressor.statistics.gram import CrossGram, Gram

DAMPINGS = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)


@dataclass
class Streams:
    """Residual streams [B, T, D] of the dense model and the subnet over the same windows."""

    dense: torch.Tensor
    subnet: torch.Tensor


@torch.inference_mode()
def reform_block(
    runner: BlockRunner, kind: str, dense: Weights, cut: Weights, streams: Streams, heldout: torch.Tensor
) -> dict[str, torch.Tensor]:
    """A block's tensors with the output projection re-solved; moves both streams past the block.

    Args:
        kind: "attention" or "ffn". cut: the block after the closed-form reform; empty if dropped.
        heldout: [B] bool.
    """
    name = runner.family.o if kind == "attention" else runner.family.down
    context = runner.attention_context if kind == "attention" else runner.ffn_context
    block = dict(cut)
    after = torch.empty_like(streams.dense)
    if not cut:
        for part in batches(heldout):
            x = streams.dense[part]
            after[part] = x + runner.project(dense, name, context(dense, x))
        streams.dense = after
        return block
    grams = {apart: Gram(cut[f"{name}.weight"].shape[1]) for apart in (False, True)}
    crosses = {apart: CrossGram(streams.dense.shape[-1], cut[f"{name}.weight"].shape[1]) for apart in (False, True)}
    for part in batches(heldout):
        apart = bool(heldout[part[0]])
        x = streams.dense[part]
        after[part] = x + runner.project(dense, name, context(dense, x))
        read = context(cut, streams.subnet[part])
        target = after[part] - streams.subnet[part]
        bias = cut.get(f"{name}.bias")
        grams[apart].add_batch(read)
        crosses[apart].add_batch(target if bias is None else target - bias, read)
    block[f"{name}.weight"] = _solve(cut[f"{name}.weight"], grams, crosses)
    _advance(lambda x: x + runner.project(block, name, context(block, x)), streams, heldout)
    streams.dense = after
    return block


def _advance(step: Callable[[torch.Tensor], torch.Tensor], streams: Streams, heldout: torch.Tensor) -> None:
    moved = torch.empty_like(streams.subnet)
    for part in batches(heldout):
        moved[part] = step(streams.subnet[part])
    streams.subnet = moved


def _solve(start: torch.Tensor, grams: dict[bool, Gram], crosses: dict[bool, CrossGram]) -> torch.Tensor:
    """The ridge solution around `start` whose damping errs least on the held-out windows."""
    gram, cross, w0 = grams[False].mean(), crosses[False].mean(), start.double()
    held, held_cross = grams[True].mean(), crosses[True].mean()
    scale, eye = gram.diagonal().mean().clamp_min(1e-12), torch.eye(len(gram), dtype=gram.dtype)

    def solution(damping: float) -> torch.Tensor:
        factor = torch.linalg.cholesky(gram + damping * scale * eye)
        return torch.cholesky_solve((cross + damping * scale * w0).T, factor).T

    def error(w: torch.Tensor) -> float:
        return float(((w @ held) * w).sum() - 2 * (w * held_cross).sum())

    return min((solution(d) for d in DAMPINGS), key=error).to(start.dtype)
