"""An uneven Gemma for vLLM: every layer is built from its own widths, and blocks may be absent.

This file is shipped inside artefacts and imports nothing of Lathe but its neighbours.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from vllm.compilation.decorators import support_torch_compile
from vllm.config import VllmConfig
from vllm.distributed import get_pp_group
from vllm.model_executor.layers.layernorm import GemmaRMSNorm
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.models.gemma3 import Gemma3MLP
from vllm.model_executor.models.llama import LlamaModel

from .vllm_attention import COMPILED, LatheAttention
from .vllm_lathe_llama import LatheLlamaDecoderLayer, LatheLlamaForCausalLM


class LatheGemmaDecoderLayer(LatheLlamaDecoderLayer):
    """A decoder layer with the norms, the attention and the FFN of a Gemma."""

    norm_class = GemmaRMSNorm

    def new_attention(self, vllm_config: VllmConfig, index: int, prefix: str) -> LatheAttention:
        scale, softcap = self.config.query_pre_attn_scalar**-0.5, self.config.attn_logit_softcapping
        return LatheAttention(vllm_config, index, prefix, self.norm_class, scale, softcap)

    def new_mlp(self, vllm_config: VllmConfig, index: int, prefix: str) -> nn.Module:
        return Gemma3MLP(
            hidden_size=self.config.hidden_size,
            intermediate_size=self.config.per_layer_config[index].intermediate_size,
            hidden_activation=self.config.hidden_act,
            quant_config=self.get_quant_config(vllm_config),
            prefix=prefix,
        )


@support_torch_compile(dynamic_arg_dims=COMPILED)
class LatheGemmaModel(LlamaModel):
    """vLLM's Llama with scaled embeddings."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "", layer_type: Any = None) -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix, layer_type=layer_type)
        if get_pp_group().is_last_rank:
            self.norm = GemmaRMSNorm(self.config.hidden_size, eps=self.config.rms_norm_eps)

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        embedded = self.embed_tokens(input_ids)
        return embedded * torch.tensor(self.config.hidden_size**0.5, dtype=embedded.dtype)


class LatheGemmaForCausalLM(LatheLlamaForCausalLM):
    """The decoder with its language-model head and soft-capped logits."""

    layer_class = LatheGemmaDecoderLayer
    model_class = LatheGemmaModel

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        if get_pp_group().is_last_rank:
            cap = self.config.final_logit_softcapping
            self.logits_processor = LogitsProcessor(self.config.vocab_size, soft_cap=cap)
