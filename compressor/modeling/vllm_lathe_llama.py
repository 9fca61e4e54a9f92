"""An uneven Llama for vLLM: every layer is built from its own widths, and blocks may be absent.

All but the layer is vLLM's own Llama, so weight names, tensor and pipeline parallelism, LoRA and quantization
are its own too. This file is shipped inside artefacts and imports nothing of Lathe.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.models.llama import LlamaAttention, LlamaDecoderLayer, LlamaForCausalLM, LlamaMLP
from vllm.model_executor.models.utils import extract_layer_index
from vllm.platforms import current_platform

from .vllm_plugin import CPU_HEAD_SIZES


class LatheLlamaAttention(LlamaAttention):
    """Llama's attention with queries and keys that are normalised head by head, or have no positions."""

    def __init__(self, config: Any, prefix: str, **options: Any) -> None:
        super().__init__(config=config, prefix=prefix, **options)
        self.normed, self.rotates = config.qk_norm, config.has_positions(extract_layer_index(prefix))
        if self.normed:
            self.q_norm, self.k_norm = (RMSNorm(self.head_dim, eps=config.rms_norm_eps) for _ in range(2))

    def forward(self, positions: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        qkv, _ = self.qkv_proj(hidden_states)
        q, k, v = qkv.split([self.q_size, self.kv_size, self.kv_size], dim=-1)
        if self.normed:
            q = self.q_norm(q.view(*q.shape[:-1], -1, self.head_dim)).view(q.shape)
            k = self.k_norm(k.view(*k.shape[:-1], -1, self.head_dim)).view(k.shape)
        if self.rotates:
            q, k = self.rotary_emb(positions, q, k)
        output, _ = self.o_proj(self.attn(q, k, v))
        return output


class LatheLlamaDecoderLayer(LlamaDecoderLayer):
    """A decoder layer with its own widths; without attention or FFN where the config drops them."""

    def __init__(self, vllm_config: VllmConfig, prefix: str = "") -> None:
        nn.Module.__init__(self)
        config: Any = vllm_config.model_config.hf_config
        index = extract_layer_index(prefix)
        widths = config.per_layer_config[index]
        quant_config = self.get_quant_config(vllm_config)
        self.has_attention = config.has_block("attention", index)
        self.has_ffn = config.has_block("ffn", index)
        if self.has_attention:
            self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
            self.self_attn = LatheLlamaAttention(
                config=widths,
                hidden_size=config.hidden_size,
                num_heads=widths.num_attention_heads,
                num_kv_heads=widths.num_key_value_heads,
                max_position_embeddings=config.max_position_embeddings,
                quant_config=quant_config,
                bias=config.attention_bias or config.qkv_bias,
                bias_o_proj=config.attention_bias,
                cache_config=vllm_config.cache_config,
                prefix=f"{prefix}.self_attn",
            )
        if self.has_ffn:
            self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
            self.mlp = LlamaMLP(
                hidden_size=config.hidden_size,
                intermediate_size=widths.intermediate_size,
                hidden_act=config.hidden_act,
                quant_config=quant_config,
                bias=config.mlp_bias,
                prefix=f"{prefix}.mlp",
            )

    def forward(
        self, positions: torch.Tensor, hidden_states: torch.Tensor, residual: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A block's output is added to `residual` by the next norm, whichever layer that is in."""
        if residual is None:
            residual = torch.zeros_like(hidden_states)
        if self.has_attention:
            hidden_states, residual = self.input_layernorm(hidden_states, residual)
            hidden_states = self.self_attn(positions=positions, hidden_states=hidden_states)
        if self.has_ffn:
            hidden_states, residual = self.post_attention_layernorm(hidden_states, residual)
            hidden_states = self.mlp(hidden_states)
        return hidden_states, residual


class LatheLlamaForCausalLM(LlamaForCausalLM):
    """vLLM's Llama with our layers.

    Raises:
        ValueError: the CPU build has no attention kernel for the head size, which it would find out when the
            first request kills the engine.
    """

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        head_dim = vllm_config.model_config.get_head_size()
        if current_platform.is_cpu() and head_dim not in CPU_HEAD_SIZES:
            raise ValueError(
                f"vLLM has no CPU attention kernel for heads of size {head_dim}; it has them for "
                f"{', '.join(map(str, CPU_HEAD_SIZES))}"
            )
        super().__init__(vllm_config=vllm_config, prefix=prefix, layer_type=LatheLlamaDecoderLayer)
