"""An uneven mixture of experts: every layer is built from its own widths, and blocks may be absent.

Experts lie side by side: `gate_proj` and `up_proj` have the rows of one below those of the other, `down_proj`
the columns. So an FFN of experts is a wide one, whose channels count what the router gives their expert.

Shapes: T tokens, D model width, E experts, F channels of each.

This file is shipped inside checkpoints and imports nothing of Lathe but its neighbours.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear
from transformers.activations import ACT2FN

from .configuration_lathe_moe import LatheMoeConfig
from .modeling_lathe_llama import LatheLlamaDecoderLayer, LatheLlamaForCausalLM, LatheLlamaModel


class LatheMoeMLP(nn.Module):
    """An FFN of experts. whole: every expert reads every token, so that `down_proj` reads all at once."""

    whole = False

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.experts, self.chosen = config.experts, config.experts_per_token
        self.normalised = config.normalised_shares
        width, channels = config.hidden_size, config.experts * config.intermediate_size
        self.router = nn.Linear(width, config.experts, bias=False)
        self.gate_proj = nn.Linear(width, channels, bias=False)
        self.up_proj = nn.Linear(width, channels, bias=False)
        self.down_proj = nn.Linear(channels, width, bias=False)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.whole:
            shares = self.shares(hidden_states)
            inner = self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states)
            result: torch.Tensor = self.down_proj(
                inner * shares.repeat_interleave(inner.shape[-1] // self.experts, -1)
            )
            return result
        hidden_TD = hidden_states.flatten(0, -2)
        shares_TE, added_TD = self.shares(hidden_TD), torch.zeros_like(hidden_TD)
        for expert in shares_TE.any(0).nonzero()[:, 0].tolist():
            at = shares_TE[:, expert].nonzero()[:, 0]
            added_TD.index_add_(0, at, self._one(expert, hidden_TD[at], shares_TE[at, expert, None]))
        return added_TD.view_as(hidden_states)

    def shares(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[..., E]: what each expert counts for a token; 0 for all but the chosen ones."""
        likely = self.router(hidden_states).float().softmax(-1)
        values, experts = likely.topk(self.chosen, -1)
        if self.normalised:
            values = values / values.sum(-1, keepdim=True)
        return torch.zeros_like(likely).scatter(-1, experts, values).to(hidden_states.dtype)

    def _one(self, expert: int, hidden_TD: torch.Tensor, shares_T1: torch.Tensor) -> torch.Tensor:
        width = self.down_proj.in_features // self.experts
        own = slice(expert * width, (expert + 1) * width)
        gate_TF = linear(hidden_TD, self.gate_proj.weight[own])
        inner_TF = self.act_fn(gate_TF) * linear(hidden_TD, self.up_proj.weight[own])
        return linear(inner_TF * shares_T1, self.down_proj.weight[:, own])


class LatheMoeDecoderLayer(LatheLlamaDecoderLayer):
    mlp_class = LatheMoeMLP


class LatheMoeModel(LatheLlamaModel):
    config_class = LatheMoeConfig
    layer_class = LatheMoeDecoderLayer
    _no_split_modules = ["LatheMoeDecoderLayer"]


class LatheMoeForCausalLM(LatheLlamaForCausalLM):
    """The decoder with its language-model head."""

    config_class = LatheMoeConfig
    decoder_class = LatheMoeModel
    _no_split_modules = ["LatheMoeDecoderLayer"]


__all__ = ["LatheMoeForCausalLM", "LatheMoeModel"]
