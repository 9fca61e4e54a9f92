"""An uneven GPT-NeoX for vLLM: every layer is built from its own widths, and blocks may be absent.

This file is shipped inside artefacts and imports nothing of Lathe but its neighbours.
"""

from __future__ import annotations

import torch
from vllm.compilation.decorators import support_torch_compile

from .vllm_attention import COMPILED
from .vllm_layernorm import LayerNormDecoderLayer, LayerNormForCausalLM, LayerNormModel


class LatheNeoxDecoderLayer(LayerNormDecoderLayer):
    """A decoder layer whose two blocks may read the same input."""

    def forward(
        self, positions: torch.Tensor, hidden_states: torch.Tensor, residual: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not (self.config.parallel_blocks and self.has_attention and self.has_ffn):
            return super().forward(positions, hidden_states, residual)
        total = hidden_states if residual is None else hidden_states + residual
        attended = self.self_attn(positions, self.input_layernorm(total))
        return attended + self.mlp(self.post_attention_layernorm(total)), total


@support_torch_compile(dynamic_arg_dims=COMPILED)
class LatheNeoxModel(LayerNormModel):
    """The decoder."""


class LatheNeoxForCausalLM(LayerNormForCausalLM):
    """The decoder with its language-model head."""

    layer_class = LatheNeoxDecoderLayer
    model_class = LatheNeoxModel
