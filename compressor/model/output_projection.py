"""Output projections as the residual stream sees them: through the norm that follows, where there is one.

A norm of gains w makes n(y) = w y / rms(y) of the projection's output y. Around the dense output an error e
in y is about w e / rms(y) in the stream: rows of the projection count by w, tokens by 1 / rms(y). What is
summed over tokens is weighted so; errors that are summed over rows are taken of `seen` rows.

Shapes: T tokens, D model width, n columns of the projection.
"""

from __future__ import annotations

import torch

from lathe.artefact.plan import BlockKind, ModelShape
from lathe.compressor.model.block_runner import BlockRunner, Weights
from lathe.compressor.model.names import ATTENTION_OUTPUT_NORM, DOWN_PROJ, FFN_OUTPUT_NORM, O_PROJ

_NEAR, _EXACT = 0.1, 1e-10
_FLOOR = 1e-6


def output(kind: BlockKind) -> str:
    """The output projection of a block, "attention" or "ffn"."""
    return O_PROJ if kind == "attention" else DOWN_PROJ


def norm_gain(shape: ModelShape, weights: Weights, kind: BlockKind) -> torch.Tensor | None:
    """[D]: of the norm that follows; None without one."""
    norm = ATTENTION_OUTPUT_NORM if kind == "attention" else FFN_OUTPUT_NORM
    return weights[f"{norm}.weight"] + shape.norm_offset if shape.norm_after else None


def norm_scaled_weight(shape: ModelShape, weights: Weights, kind: BlockKind) -> torch.Tensor:
    """[D, n]: the output projection, every row as much as it counts."""
    weight, gain = weights[f"{output(kind)}.weight"], norm_gain(shape, weights, kind)
    return weight if gain is None else gain[:, None] * weight


def token_weights(runner: BlockRunner, projected: torch.Tensor) -> torch.Tensor:
    """[..., T, 1]: what a token's error counts, from what the projection gives; 1 without a norm."""
    if not runner.shape.norm_after:
        return torch.ones_like(projected[..., :1])
    return projected.square().mean(-1, keepdim=True).clamp_min(_FLOOR).rsqrt()


def target_output(
    runner: BlockRunner, weights: Weights, kind: BlockKind, dense: torch.Tensor, missing: torch.Tensor
) -> torch.Tensor:
    """[..., T, D]: what the projection has to give, times `token_weights`, so that the block adds `missing`
    where the dense one adds `dense`.

    With a norm, that is the u that minimises |w u - missing|^2 + k |u - u_dense|^2: no row is asked for much
    by a small gain.
    """
    gain = norm_gain(runner.shape, weights, kind)
    if gain is None:
        return missing
    square = gain.square()
    near, exact = _NEAR * square.mean(), _EXACT * square.mean()
    return gain * dense / (square + exact) + gain * (missing - dense) / (square + near)
