"""An uneven gpt-oss: every layer is built from its own widths, and blocks may be absent.

This file is shipped inside checkpoints and imports nothing of Lathe but its neighbours.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward

from .configuration_lathe_gpt_oss import LatheGptOssConfig
from .modeling_lathe_llama import LatheLlamaAttention
from .modeling_lathe_moe import LatheMoeDecoderLayer, LatheMoeForCausalLM, LatheMoeMLP, LatheMoeModel


class LatheGptOssAttention(LatheLlamaAttention):
    """Attention with a sink for each query head: a learned score that belongs to no token."""

    eager = staticmethod(eager_attention_forward)

    def __init__(self, config: LatheGptOssConfig, layer_idx: int, cache_idx: int) -> None:
        super().__init__(config, layer_idx, cache_idx)
        self.sinks = nn.Parameter(torch.zeros(self.q_proj.out_features // self.head_dim))


class LatheGptOssMLP(LatheMoeMLP):
    """Experts with biases, a clamped gate and a clamped linear part."""

    biased = True

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.alpha, self.limit = config.swiglu_alpha, config.swiglu_limit

    def gated(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        gate, up = gate.clamp(max=self.limit), up.clamp(-self.limit, self.limit)
        return (up + 1) * gate * torch.sigmoid(self.alpha * gate)


class LatheGptOssDecoderLayer(LatheMoeDecoderLayer):
    """A decoder layer with attention sinks and with experts that have biases."""

    attention_class = LatheGptOssAttention
    mlp_class = LatheGptOssMLP


class LatheGptOssModel(LatheMoeModel):
    """The decoder."""

    config_class = LatheGptOssConfig
    layer_class = LatheGptOssDecoderLayer
    _no_split_modules = ["LatheGptOssDecoderLayer"]
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = False  # they are not given the sinks


class LatheGptOssForCausalLM(LatheMoeForCausalLM):
    """The decoder with its language-model head."""

    config_class = LatheGptOssConfig
    decoder_class = LatheGptOssModel
    _no_split_modules = ["LatheGptOssDecoderLayer"]
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = False


__all__ = ["LatheGptOssForCausalLM", "LatheGptOssModel"]
