"""The effect of output projections on the residual stream, through the norm that follows, where there is one.

A norm with gains w maps the projection's output y to n(y) = w y / rms(y). Around the dense output an error e
in y is about w e / rms(y) in the stream: rows of the projection are weighted by w, tokens by 1 / rms(y). Sums
over tokens are weighted so; errors that are summed over rows use `norm_scaled_weight`.

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
    """Returns the name of a block's output projection; `kind` is "attention" or "ffn"."""
    return O_PROJ if kind == "attention" else DOWN_PROJ


def norm_gain(shape: ModelShape, weights: Weights, kind: BlockKind) -> torch.Tensor | None:
    """Returns the gains of the norm that follows, [D]; None without one."""
    norm = ATTENTION_OUTPUT_NORM if kind == "attention" else FFN_OUTPUT_NORM
    return weights[f"{norm}.weight"] + shape.norm_offset if shape.norm_after else None


def norm_scaled_weight(shape: ModelShape, weights: Weights, kind: BlockKind) -> torch.Tensor:
    """Returns the output projection with its rows weighted by the norm's gains, [D, n]."""
    weight, gain = weights[f"{output(kind)}.weight"], norm_gain(shape, weights, kind)
    return weight if gain is None else gain[:, None] * weight


def token_weights(runner: BlockRunner, projected: torch.Tensor) -> torch.Tensor:
    """Returns the weights of tokens' errors from the projection's outputs, [..., T, 1]; 1 without a norm."""
    if not runner.shape.norm_after:
        return torch.ones_like(projected[..., :1])
    return projected.square().mean(-1, keepdim=True).clamp_min(_FLOOR).rsqrt()


def target_output(
    runner: BlockRunner, weights: Weights, kind: BlockKind, dense: torch.Tensor, missing: torch.Tensor
) -> torch.Tensor:
    """Returns the projection's target output, times `token_weights`, [..., T, D].

    With it the block adds `missing` to the stream where the dense block adds `dense`. With a norm, it is the
    u that minimises |w u - missing|^2 + k |u - u_dense|^2, so that a small gain does not ask for large rows.
    """
    gain = norm_gain(runner.shape, weights, kind)
    if gain is None:
        return missing
    square = gain.square()
    near, exact = _NEAR * square.mean(), _EXACT * square.mean()
    return gain * dense / (square + exact) + gain * (missing - dense) / (square + near)
