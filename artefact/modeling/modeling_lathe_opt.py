"""An uneven OPT: every layer is built from its own widths, and blocks may be absent.

This file is shipped inside checkpoints and imports nothing of Lathe but its neighbours.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2FN

from .configuration_lathe_opt import LatheOptConfig
from .modeling_lathe_llama import (
    CACHE,
    LatheLlamaDecoderLayer,
    LatheLlamaForCausalLM,
    LatheLlamaModel,
    one_cache,
)


class LatheOptMLP(nn.Module):
    """An FFN without a gate."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> Any:
        return self.down_proj(self.act_fn(self.up_proj(hidden_states)))


class LatheOptDecoderLayer(LatheLlamaDecoderLayer):
    """A decoder layer with LayerNorms and an FFN without a gate."""

    norm_class = nn.LayerNorm
    mlp_class = LatheOptMLP


class LatheOptModel(LatheLlamaModel):
    """The decoder, with learned positions added to its tokens."""

    config_class = LatheOptConfig
    layer_class = LatheOptDecoderLayer
    _no_split_modules = ["LatheOptDecoderLayer"]

    def __init__(self, config: LatheOptConfig) -> None:
        super().__init__(config)
        self.embed_positions = nn.Embedding(config.learned_positions, config.hidden_size)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        cache: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Runs the decoder.

        Without `position_ids` the position of a token is the number of attended tokens before it.
        """
        cache = one_cache(cache, past_key_values)
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        batch, length, _ = inputs_embeds.shape
        past = cache.get_seq_length() if cache is not None else 0
        if position_ids is None:
            attended = inputs_embeds.new_ones(batch, past + length, dtype=torch.long)
            if attention_mask is not None and attention_mask.dim() == 2:
                attended = attention_mask.long()
            position_ids = (attended.cumsum(1) - 1).clamp(min=0)[:, -length:]
        return super().forward(
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds + self.embed_positions(position_ids),
            **{CACHE: cache},
            **kwargs,
        )


class LatheOptForCausalLM(LatheLlamaForCausalLM):
    """The decoder with its language-model head."""

    config_class = LatheOptConfig
    decoder_class = LatheOptModel
    _no_split_modules = ["LatheOptDecoderLayer"]


__all__ = ["LatheOptForCausalLM", "LatheOptModel"]
