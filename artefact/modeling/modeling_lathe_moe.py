"""An uneven mixture of experts: every layer is built from its own widths, and blocks may be absent.

Experts are concatenated: `gate_proj` and `up_proj` along their rows, `down_proj` along its columns. So an FFN
of experts is one wide FFN, whose channels are multiplied by the routing weight of their expert.

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


def shares_of(logits: torch.Tensor, chosen: int, normalised: bool) -> torch.Tensor:
    """Returns routing weights [..., E], which are 0 for all but the chosen experts of a token."""
    likely = logits.float().softmax(-1)
    values, experts = likely.topk(chosen, -1)
    if normalised:
        values = values / values.sum(-1, keepdim=True)
    return torch.zeros_like(likely).scatter(-1, experts, values).to(logits.dtype)


class LatheMoeMLP(nn.Module):
    """An FFN of experts.

    Attributes:
        biased: The router and the experts have biases. Output biases of experts are the columns of
            `share_proj`, which reads the routing weights.
        whole: Every expert reads every token, and the call returns the input of the output projections, that
            of `share_proj` last.
    """

    biased = False
    whole = False

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.chosen, self.normalised = config.experts_per_token, config.normalised_shares
        width, channels = config.hidden_size, config.experts * config.intermediate_size
        self.router = nn.Linear(width, config.experts, bias=self.biased)
        self.gate_proj = nn.Linear(width, channels, bias=self.biased)
        self.up_proj = nn.Linear(width, channels, bias=self.biased)
        self.down_proj = nn.Linear(channels, width, bias=False)
        if self.biased:
            self.share_proj = nn.Linear(config.experts, width, bias=False)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.whole:
            shares, inner = self.shares(hidden_states), self.inner(hidden_states)
            parts = (inner.unflatten(-1, (shares.shape[-1], -1)) * shares[..., None]).flatten(-2)
            return torch.cat([parts, shares], -1) if self.biased else parts
        hidden_TD = hidden_states.flatten(0, -2)
        shares_TE = self.shares(hidden_TD)
        added_TD = self.share_proj(shares_TE) if self.biased else torch.zeros_like(hidden_TD)
        width = self.gate_proj.out_features // shares_TE.shape[-1]
        for expert in shares_TE.any(0).nonzero()[:, 0].tolist():
            at, own = shares_TE[:, expert].nonzero()[:, 0], slice(expert * width, (expert + 1) * width)
            added_TD.index_add_(0, at, self._one(own, hidden_TD[at], shares_TE[at, expert, None]))
        return added_TD.view_as(hidden_states)

    def shares(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Returns the routing weights [..., E] of tokens; 0 for all but the chosen experts."""
        return shares_of(self.router(hidden_states), self.chosen, self.normalised)

    def inner(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Returns the channels [..., E * F] of all experts, before `down_proj`."""
        return self.gated(self.gate_proj(hidden_states), self.up_proj(hidden_states))

    def gated(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Returns the activated gate times the linear part."""
        made: torch.Tensor = self.act_fn(gate) * up
        return made

    def _one(self, own: slice, hidden_TD: torch.Tensor, shares_T1: torch.Tensor) -> torch.Tensor:
        """Returns the weighted output of the expert of these channels."""
        gate_TF, up_TF = (
            linear(hidden_TD, part.weight[own], part.bias[own] if self.biased else None)
            for part in (self.gate_proj, self.up_proj)
        )
        return linear(self.gated(gate_TF, up_TF) * shares_T1, self.down_proj.weight[:, own])


class LatheMoeDecoderLayer(LatheLlamaDecoderLayer):
    """A decoder layer whose FFN is a mixture of experts."""

    mlp_class = LatheMoeMLP


class LatheMoeModel(LatheLlamaModel):
    """The decoder."""

    config_class = LatheMoeConfig
    layer_class = LatheMoeDecoderLayer
    _no_split_modules = ["LatheMoeDecoderLayer"]


class LatheMoeForCausalLM(LatheLlamaForCausalLM):
    """The decoder with its language-model head."""

    config_class = LatheMoeConfig
    decoder_class = LatheMoeModel
    _no_split_modules = ["LatheMoeDecoderLayer"]


__all__ = ["LatheMoeForCausalLM", "LatheMoeModel"]
