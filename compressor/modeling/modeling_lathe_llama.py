"""An uneven Llama: every layer is built from its own widths, and blocks may be absent.

This file is shipped inside checkpoints and imports nothing of Lathe.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaForCausalLM,
    LlamaMLP,
    LlamaModel,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)

from .configuration_lathe_llama import LatheLlamaConfig


class LatheLlamaDecoderLayer(LlamaDecoderLayer):
    """A decoder layer with its own widths; without attention or FFN where the config drops them."""

    def __init__(self, config: LatheLlamaConfig, layer_idx: int, cache_idx: int) -> None:
        nn.Module.__init__(self)
        widths: Any = config.per_layer_config[layer_idx]
        self.hidden_size = config.hidden_size
        self.has_attention = config.has_block("attention", layer_idx)
        self.has_ffn = config.has_block("ffn", layer_idx)
        if self.has_attention:
            self.self_attn = LlamaAttention(config=widths, layer_idx=cache_idx)
            self.self_attn.config = config  # the one whose attention implementation can be changed later
            self.input_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        if self.has_ffn:
            self.mlp = LlamaMLP(widths)
            self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.has_attention:
            attended, _ = self.self_attn(self.input_layernorm(hidden_states), *args, **kwargs)
            hidden_states = hidden_states + attended
        if self.has_ffn:
            hidden_states = hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))
        return hidden_states


class LatheLlamaModel(LlamaModel):
    """The decoder. Layers with attention number their caches 0, 1, ...: the first is always in use."""

    config_class = LatheLlamaConfig
    _no_split_modules = ["LatheLlamaDecoderLayer"]

    def __init__(self, config: LatheLlamaConfig) -> None:
        super(LlamaModel, self).__init__(config)
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        with_attention = [config.has_block("attention", i) for i in range(config.num_hidden_layers)]
        self.layers = nn.ModuleList(
            LatheLlamaDecoderLayer(config, i, cache_idx=sum(with_attention[:i]))
            for i in range(config.num_hidden_layers)
        )
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config=config)
        self.gradient_checkpointing = False
        self.post_init()


class LatheLlamaForCausalLM(LlamaForCausalLM):
    """The decoder with its language-model head."""

    config_class = LatheLlamaConfig
    _no_split_modules = ["LatheLlamaDecoderLayer"]

    def __init__(self, config: LatheLlamaConfig) -> None:
        super(LlamaForCausalLM, self).__init__(config)
        self.model = LatheLlamaModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


__all__ = ["LatheLlamaForCausalLM", "LatheLlamaModel"]
