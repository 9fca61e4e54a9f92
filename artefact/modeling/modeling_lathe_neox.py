"""An uneven GPT-NeoX: every layer is built from its own widths, and blocks may be absent.

This file is shipped inside checkpoints and imports nothing of Lathe but its neighbours.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .configuration_lathe_neox import LatheNeoxConfig
from .modeling_lathe_llama import LatheLlamaDecoderLayer, LatheLlamaForCausalLM, LatheLlamaModel
from .modeling_lathe_opt import LatheOptMLP


class LatheNeoxDecoderLayer(LatheLlamaDecoderLayer):
    """A decoder layer whose two blocks may read the same input."""

    norm_class = nn.LayerNorm
    mlp_class = LatheOptMLP

    def __init__(self, config: LatheNeoxConfig, layer_idx: int, cache_idx: int) -> None:
        super().__init__(config, layer_idx, cache_idx)
        self.parallel = config.parallel_blocks

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        incoming = hidden_states
        if self.has_attention:
            hidden_states = hidden_states + self.attend(hidden_states, *args, **kwargs)
        if self.has_ffn:
            hidden_states = hidden_states + self.feed(incoming if self.parallel else hidden_states)
        return hidden_states


class LatheNeoxModel(LatheLlamaModel):
    """The decoder."""

    config_class = LatheNeoxConfig
    layer_class = LatheNeoxDecoderLayer
    _no_split_modules = ["LatheNeoxDecoderLayer"]


class LatheNeoxForCausalLM(LatheLlamaForCausalLM):
    """The decoder with its language-model head."""

    config_class = LatheNeoxConfig
    decoder_class = LatheNeoxModel
    _no_split_modules = ["LatheNeoxDecoderLayer"]


__all__ = ["LatheNeoxForCausalLM", "LatheNeoxModel"]
