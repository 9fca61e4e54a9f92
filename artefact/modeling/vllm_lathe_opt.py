"""An uneven OPT for vLLM: every layer is built from its own widths, and blocks may be absent.

This file is shipped inside artefacts and imports nothing of Lathe but its neighbours.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from vllm.compilation.decorators import support_torch_compile
from vllm.config import VllmConfig
from vllm.distributed import get_pp_group
from vllm.model_executor.models.utils import PPMissingLayer

from .vllm_attention import COMPILED
from .vllm_layernorm import LayerNormDecoderLayer, LayerNormForCausalLM, LayerNormModel


@support_torch_compile(dynamic_arg_dims=COMPILED)
class LatheOptModel(LayerNormModel):
    """The decoder, with learned positions added to its tokens."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "", layer_type: Any = None) -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix, layer_type=layer_type)
        self.embed_positions: nn.Module = PPMissingLayer()
        if get_pp_group().is_first_rank:
            self.embed_positions = nn.Embedding(self.config.learned_positions, self.config.hidden_size)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: Any,
        inputs_embeds: torch.Tensor | None = None,
    ) -> Any:
        if get_pp_group().is_first_rank:
            embedded = self.embed_input_ids(input_ids) if inputs_embeds is None else inputs_embeds
            inputs_embeds = embedded + self.embed_positions(positions)
        return super().forward(input_ids, positions, intermediate_tensors, inputs_embeds)


class LatheOptForCausalLM(LayerNormForCausalLM):
    """The decoder with its language-model head."""

    layer_class = LayerNormDecoderLayer
    model_class = LatheOptModel
