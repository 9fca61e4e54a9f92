"""An uneven Llama: every layer is built from its own widths, and blocks may be absent.

Shapes: B batch, S tokens, N query heads, K KV heads, H head dim.

This file is shipped inside checkpoints and imports nothing of Lathe.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaForCausalLM,
    LlamaMLP,
    LlamaModel,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
    eager_attention_forward,
)

from .configuration_lathe_llama import LatheLlamaConfig


class LatheLlamaAttention(LlamaAttention):
    """Attention with the widths of one layer, and with the biases and norms that the config asks for."""

    def __init__(self, config: LatheLlamaConfig, layer_idx: int, cache_idx: int) -> None:
        widths: Any = config.per_layer_config[layer_idx]
        super().__init__(config=widths, layer_idx=cache_idx)
        self.rotates = config.has_positions(layer_idx)
        self.config = config  # the one whose attention implementation can be changed later
        if config.qkv_bias:
            for name in ("q_proj", "k_proj", "v_proj"):
                rows = getattr(self, name).out_features
                setattr(self, name, nn.Linear(config.hidden_size, rows, bias=True))
        self.q_norm, self.k_norm = (
            LlamaRMSNorm(self.head_dim, eps=config.rms_norm_eps) if config.qk_norm else nn.Identity()
            for _ in range(2)
        )

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: Any = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        batch, length, _ = hidden_states.shape
        heads = (batch, length, -1, self.head_dim)
        q_BNSH = self.q_norm(self.q_proj(hidden_states).view(heads)).transpose(1, 2)
        k_BKSH = self.k_norm(self.k_proj(hidden_states).view(heads)).transpose(1, 2)
        v_BKSH = self.v_proj(hidden_states).view(heads).transpose(1, 2)
        if self.rotates:
            q_BNSH, k_BKSH = apply_rotary_pos_emb(q_BNSH, k_BKSH, *position_embeddings)
        if past_key_values is not None:
            k_BKSH, v_BKSH = past_key_values.update(k_BKSH, v_BKSH, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        dropout = self.attention_dropout if self.training else 0.0
        attended_BSNH, shares = attend(
            self, q_BNSH, k_BKSH, v_BKSH, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )
        return self.o_proj(attended_BSNH.reshape(batch, length, -1).contiguous()), shares


class LatheLlamaDecoderLayer(LlamaDecoderLayer):
    """A decoder layer with its own widths; without attention or FFN where the config drops them."""

    norm_class: Any = LlamaRMSNorm
    mlp_class: Any = LlamaMLP

    def __init__(self, config: LatheLlamaConfig, layer_idx: int, cache_idx: int) -> None:
        nn.Module.__init__(self)
        widths: Any = config.per_layer_config[layer_idx]
        self.hidden_size = config.hidden_size
        self.has_attention = config.has_block("attention", layer_idx)
        self.has_ffn = config.has_block("ffn", layer_idx)
        if self.has_attention:
            self.self_attn = LatheLlamaAttention(config, layer_idx, cache_idx)
            self.input_layernorm = self.norm_class(config.hidden_size, eps=config.rms_norm_eps)
        if self.has_ffn:
            self.mlp = self.mlp_class(widths)
            self.post_attention_layernorm = self.norm_class(config.hidden_size, eps=config.rms_norm_eps)

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
    layer_class: Any = LatheLlamaDecoderLayer
    _no_split_modules = ["LatheLlamaDecoderLayer"]

    def __init__(self, config: LatheLlamaConfig) -> None:
        super(LlamaModel, self).__init__(config)
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        with_attention = [config.has_block("attention", i) for i in range(config.num_hidden_layers)]
        self.layers = nn.ModuleList(
            self.layer_class(config, i, cache_idx=sum(with_attention[:i]))
            for i in range(config.num_hidden_layers)
        )
        self.norm = self.layer_class.norm_class(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config=config)
        self.gradient_checkpointing = False
        self.post_init()


class LatheLlamaForCausalLM(LlamaForCausalLM):
    """The decoder with its language-model head."""

    config_class = LatheLlamaConfig
    decoder_class: Any = LatheLlamaModel
    _no_split_modules = ["LatheLlamaDecoderLayer"]

    def __init__(self, config: LatheLlamaConfig) -> None:
        super(LlamaForCausalLM, self).__init__(config)
        self.model = self.decoder_class(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


__all__ = ["LatheLlamaForCausalLM", "LatheLlamaModel"]
