"""Parts of models with LayerNorms and FFNs without a gate, for vLLM.

This file is shipped inside artefacts and imports nothing of Lathe but its neighbours.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.distributed import get_pp_group
from vllm.model_executor.layers.activation import get_act_fn
from vllm.model_executor.layers.linear import ColumnParallelLinear, RowParallelLinear
from vllm.model_executor.models.llama import LlamaModel
from vllm.model_executor.models.utils import WeightsMapper

from .vllm_lathe_llama import LatheLlamaDecoderLayer, LatheLlamaForCausalLM

MAPPER = WeightsMapper(
    orig_to_new_stacked={
        ".q_proj": (".qkv_proj", "q"),
        ".k_proj": (".qkv_proj", "k"),
        ".v_proj": (".qkv_proj", "v"),
    }
)


class AddingLayerNorm(nn.LayerNorm):
    """A LayerNorm with the interface of vLLM's RMSNorm.

    A residual is added to the input first, and the sum is returned beside the output.
    """

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> Any:
        if residual is None:
            return super().forward(x)
        total = x + residual
        return super().forward(total), total


class UngatedMLP(nn.Module):
    """An FFN without a gate."""

    def __init__(self, config: Any, width: int, quant_config: Any, prefix: str) -> None:
        super().__init__()
        options = {"bias": config.mlp_bias, "quant_config": quant_config}
        self.up_proj = ColumnParallelLinear(config.hidden_size, width, prefix=f"{prefix}.up_proj", **options)
        self.down_proj = RowParallelLinear(width, config.hidden_size, prefix=f"{prefix}.down_proj", **options)
        self.act_fn = get_act_fn(config.hidden_act)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        inner, _ = self.up_proj(hidden_states)
        output, _ = self.down_proj(self.act_fn(inner))
        return output


class LayerNormDecoderLayer(LatheLlamaDecoderLayer):
    """A decoder layer with LayerNorms and an FFN without a gate."""

    norm_class = AddingLayerNorm

    def new_mlp(self, vllm_config: VllmConfig, index: int, prefix: str) -> nn.Module:
        width = self.config.per_layer_config[index].intermediate_size
        return UngatedMLP(self.config, width, self.get_quant_config(vllm_config), prefix)


class LayerNormModel(LlamaModel):
    """vLLM's Llama with a LayerNorm at its end.

    Subclasses must be decorated for compilation.
    """

    hf_to_vllm_mapper = MAPPER

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "", layer_type: Any = None) -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix, layer_type=layer_type)
        if get_pp_group().is_last_rank:
            self.norm = AddingLayerNorm(self.config.hidden_size, eps=self.config.rms_norm_eps)


class LayerNormForCausalLM(LatheLlamaForCausalLM):
    """The decoder with its language-model head."""

    hf_to_vllm_mapper = MAPPER
    packed_modules_mapping = {"qkv_proj": ["q_proj", "k_proj", "v_proj"]}
