"""transformers' dense model of a setting, and what its projections read: an independent reference."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from transformers import LlamaForCausalLM

from benchmarks.quality.setting import Setting, Subnet
from support.tiny_llama import PLANS, reference


def dense(setting: Setting) -> LlamaForCausalLM:
    return reference(setting.source, PLANS["dense"])


def read(model: LlamaForCausalLM, layer: int, windows: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """What o_proj and down_proj of one layer read: [tokens, N*H] and [tokens, F], float64."""
    seen: list[np.ndarray] = []
    block = model.model.layers[layer]
    hooks = [
        module.register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(0, 1).double().numpy()))
        for module in (block.self_attn.o_proj, block.mlp.down_proj)
    ]
    with torch.no_grad():
        model(windows)
    for hook in hooks:
        hook.remove()
    attention, ffn = seen
    return attention, ffn


@torch.no_grad()
def zero(
    model: LlamaForCausalLM, setting: Setting, layer: int, groups: Iterable[int], channels: Iterable[int]
) -> None:
    """Take away all but these KV groups and channels of a layer."""
    shape, block = setting.shape, model.model.layers[layer]
    per_group = shape.layer.heads_per_group * shape.head_dim
    heads = [g * per_group + i for g in groups for i in range(per_group)]
    for projection, kept in ((block.self_attn.o_proj, heads), (block.mlp.down_proj, list(channels))):
        gone = torch.ones(projection.weight.shape[1], dtype=torch.bool)
        gone[kept] = False
        projection.weight[:, gone] = 0


def top(scores: np.ndarray, count: int) -> list[int]:
    return sorted(np.argsort(-scores, kind="stable")[:count].tolist())


def assert_same(setting: Setting, subnet: Subnet, model: LlamaForCausalLM) -> None:
    """The subnet says what the model says."""
    with torch.no_grad():
        expected = model(setting.heldout).logits.log_softmax(-1)
    torch.testing.assert_close(subnet.logprobs(setting.heldout), expected, atol=1e-4, rtol=1e-4)
