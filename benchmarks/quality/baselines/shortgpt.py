"""ShortGPT (arXiv 2403.03853): drop the layers that turn the hidden state least.

Block Influence (Eq. 1 of the paper): BI_i = 1 - E[x_i . x_(i+1) / (|x_i| |x_(i+1)|)] over the tokens of the
calibration text, x_i the residual stream that layer i reads, x_(i+1) what it leaves. All scores are of the
dense model; the layers with the lowest go. The paper's state after the last layer is taken before the final
norm, like the others.
"""

from __future__ import annotations

import torch

from benchmarks.quality.layer_step import step
from benchmarks.quality.layers import layers_to_drop, without
from benchmarks.quality.setting import Setting, Subnet, baselines


@baselines.register("shortgpt")
def shortgpt(setting: Setting, keep: float) -> Subnet:
    order = block_influence(setting).argsort(stable=True)
    return without(setting, order[: layers_to_drop(setting, keep)].tolist())


def block_influence(setting: Setting) -> torch.Tensor:
    """[layers]: mean over all calibration tokens."""
    hidden, found = setting.embed(setting.fit), []
    for index, weights in enumerate(setting.layers):
        after = step(setting, index, weights, hidden)
        found.append(1 - torch.cosine_similarity(hidden, after, dim=-1).double().mean())
        hidden = after
    return torch.stack(found)
