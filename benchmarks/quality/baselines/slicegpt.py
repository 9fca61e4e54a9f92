"""SliceGPT (Ashkboos et al., ICLR 2024, arXiv 2401.15024): a narrower residual stream in its principal axes.

RMSNorm, its weight folded into the projections that follow, does not change under rotation, so every block
may see the stream rotated by an orthogonal Q of its own: W_in Q, Q^T W_out, and Q_k^T Q_(k+1) on the residual
path to the next block (Sec. 3.1, 3.3). Q holds the principal axes of what the block's norm gives on the
calibration text. Slicing (Sec. 3.4) cuts all but the first w axes from weights, stream and rotations alike;
the norm still divides by the D of the dense model. As in the authors' code (microsoft/TransformerCompression)
each PCA is of the stream that the slices before leave, one width serves the whole model, and the stream is
whole again after the last block, so that the head is not sliced (better here than a sliced head).

Stored per layer: q, k, v, gate, up [., w], o, down [w, .] (the last down [D, .]) and two rotations [w, w]
(the last [w, D]); no norm weights. `keep` is a share of the dense decoder parameters with these rotations
counted, so w/D is well below it; w is the largest that fits. The embedding is sliced, which decoder
parameters do not count. At w = D nothing is rotated and nothing stored besides the dense weights.

Cutting in a rotated basis is projecting in the original one: with Q_w the first w columns, Q_w Q_w^T x has
the norm and the products with W that Q_w^T x has with W Q_w. That is how the subnet is run here.
"""

from __future__ import annotations

import torch

from benchmarks.quality.setting import Setting, Subnet, baselines
from lathe.artefact.errors import UserError

_ROWS = 8


@baselines.register("slicegpt")
def slicegpt(setting: Setting, keep: float) -> Subnet:
    if setting.shape.norm_after:
        raise UserError("slicegpt: what a block adds passes through a norm, and no rotation does")
    width = largest_width(setting, keep)
    axes = principal_axes(setting, width)
    return Subnet(
        setting.head,
        lambda tokens: run(setting, axes, setting.embed(tokens)),
        parameters(setting, width),
        facts={"width": width},
    )


def largest_width(setting: Setting, keep: float) -> int:
    budget = keep * setting.dense_parameters
    widths = range(setting.shape.hidden_size, 0, -1)
    return next((w for w in widths if parameters(setting, w) <= budget), 1)


def parameters(setting: Setting, width: int) -> int:
    """Of the decoder layers with a stream of this width, rotations included."""
    shape, layer, d = setting.shape, setting.shape.layer, setting.shape.hidden_size
    q, kv = layer.query_heads * shape.head_dim, layer.kv_heads * shape.head_dim
    one = (2 * q + 2 * kv + 3 * layer.ffn) * width
    one += q + 2 * kv + width if shape.attention_bias else 0
    one += 2 * layer.ffn + width if shape.mlp_bias else 0
    if width == d:
        return shape.num_layers * one
    whole_after_last = (d - width) * (layer.ffn + width + shape.mlp_bias)
    return shape.num_layers * (one + 2 * width * width) + whole_after_last


@torch.inference_mode()
def principal_axes(setting: Setting, width: int) -> list[torch.Tensor]:
    """[D, width] before each block, attention of layer 0 first; none for the full width."""
    if width == setting.shape.hidden_size:
        return []
    parts = [setting.embed(tokens) for tokens in setting.fit.split(_ROWS)]
    axes: list[torch.Tensor] = []
    for position in range(2 * setting.shape.num_layers):
        axes.append(pca(parts)[:, :width])
        parts = [_block(setting, axes, position, part) for part in parts]
    return axes


def pca(parts: list[torch.Tensor]) -> torch.Tensor:
    """[D, D]: principal axes (not centred) of vectors [..., D] at unit root mean square, largest first."""
    moment = torch.zeros(parts[0].shape[-1], parts[0].shape[-1], dtype=torch.float64)
    for part in parts:
        x = part.flatten(0, -2).double()
        x = x / x.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-12)
        moment += x.T @ x
    return torch.linalg.eigh(moment).eigenvectors.flip(1).to(parts[0].dtype)


@torch.inference_mode()
def run(setting: Setting, axes: list[torch.Tensor], hidden_BTD: torch.Tensor) -> torch.Tensor:
    """The stream [B, T, D] before the final norm, in the original basis."""
    for position in range(2 * setting.shape.num_layers):
        hidden_BTD = _block(setting, axes, position, hidden_BTD)
    return hidden_BTD


def _block(
    setting: Setting, axes: list[torch.Tensor], position: int, hidden_BTD: torch.Tensor
) -> torch.Tensor:
    runner = setting.runner.at(position // 2)
    step = (runner.attention, runner.ffn)[position % 2]
    if axes:
        hidden_BTD = hidden_BTD @ axes[position] @ axes[position].T
    return step(setting.layers[position // 2], hidden_BTD)
