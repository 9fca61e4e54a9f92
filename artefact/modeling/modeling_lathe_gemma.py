"""An uneven Gemma: every layer is built from its own widths, and blocks may be absent.

This file is shipped inside checkpoints and imports nothing of Lathe but its neighbours.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm

from .configuration_lathe_gemma import LatheGemmaConfig
from .configuration_lathe_llama import LatheLlamaConfig
from .modeling_lathe_llama import (
    LatheLlamaAttention,
    LatheLlamaDecoderLayer,
    LatheLlamaForCausalLM,
    LatheLlamaModel,
)


def no_caps(model: Any) -> bool:
    """Returns whether PyTorch's own attention, which has no soft caps, computes the same."""
    return model.config.attn_logit_softcapping is None


class LatheGemmaAttention(LatheLlamaAttention):
    """Attention with the scale and the soft cap of a Gemma."""

    norm_class = Gemma2RMSNorm

    def __init__(self, config: LatheGemmaConfig, layer_idx: int, cache_idx: int) -> None:
        super().__init__(config, layer_idx, cache_idx)
        self.scaling = config.query_pre_attn_scalar**-0.5
        self.softcap = config.attn_logit_softcapping


class LatheGemmaDecoderLayer(LatheLlamaDecoderLayer):
    """A decoder layer with the norms and the attention of a Gemma."""

    norm_class = Gemma2RMSNorm
    attention_class = LatheGemmaAttention


class ScaledEmbedding(nn.Embedding):
    """An embedding multiplied by the square root of its width, in the type of its weights."""

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        embedded = super().forward(input_ids)
        return embedded * embedded.new_tensor(self.embedding_dim**0.5)


class LatheGemmaModel(LatheLlamaModel):
    """The decoder, with scaled embeddings."""

    config_class = LatheGemmaConfig
    layer_class = LatheGemmaDecoderLayer
    _no_split_modules = ["LatheGemmaDecoderLayer"]
    _supports_sdpa = property(no_caps)

    def new_embedding(self, config: LatheLlamaConfig) -> nn.Embedding:
        return ScaledEmbedding(config.vocab_size, config.hidden_size, config.pad_token_id)


class CappedHead(nn.Linear):
    """A language-model head with soft-capped logits."""

    def __init__(self, width: int, vocabulary: int, cap: float | None) -> None:
        super().__init__(width, vocabulary, bias=False)
        self.cap = cap

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        logits = super().forward(hidden_states)
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


class LatheGemmaForCausalLM(LatheLlamaForCausalLM):
    """The decoder with its language-model head."""

    config_class = LatheGemmaConfig
    decoder_class = LatheGemmaModel
    _no_split_modules = ["LatheGemmaDecoderLayer"]
    _supports_sdpa = property(no_caps)

    def new_head(self, config: Any) -> nn.Linear:
        return CappedHead(config.hidden_size, config.vocab_size, config.final_logit_softcapping)


__all__ = ["LatheGemmaForCausalLM", "LatheGemmaModel"]
