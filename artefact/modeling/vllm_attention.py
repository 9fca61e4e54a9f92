"""Attention for vLLM with the widths, norms, positions and window of one layer.

This file is shipped inside artefacts and imports nothing of Lathe.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.distributed import get_tensor_model_parallel_world_size, tensor_model_parallel_all_reduce
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.linear import QKVParallelLinear, RowParallelLinear
from vllm.model_executor.layers.rotary_embedding import get_rope
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheSpec, SlidingWindowSpec

COMPILED = {"input_ids": 0, "positions": 0, "intermediate_tensors": 0, "inputs_embeds": 0}
"""Arguments of a model whose sizes change from step to step, and which size."""


class WindowedAttention(Attention):
    """Attention that keeps what its window has passed by. Layers of different widths have pages of different
    sizes, which vLLM shares out only among layers of one kind.
    """

    def get_kv_cache_spec(self, vllm_config: VllmConfig) -> KVCacheSpec | None:
        spec = super().get_kv_cache_spec(vllm_config)
        if not isinstance(spec, SlidingWindowSpec):
            return spec
        return FullAttentionSpec(
            block_size=vllm_config.cache_config.block_size,
            num_kv_heads=spec.num_kv_heads,
            head_size=spec.head_size,
            head_size_v=spec.head_size_v,
            dtype=spec.dtype,
            kv_quant_mode=spec.kv_quant_mode,
            sliding_window=spec.sliding_window,
        )


def own_part(value: torch.Tensor, first: int) -> nn.Parameter:
    """A parameter of a device, one part of the checkpoint's, from its row `first` on."""
    parameter = nn.Parameter(value, requires_grad=False)

    def load(own: nn.Parameter, loaded: torch.Tensor) -> None:
        own.data.copy_(loaded[first : first + len(value)])

    parameter.weight_loader = load  # type: ignore[attr-defined]
    return parameter


class SharedRMSNorm(nn.Module):
    """RMS normalisation of all heads together, where devices have as many of them each. A device's part of
    the weights is loaded with its part of the projection.
    """

    def __init__(self, width: int, eps: float, first: int) -> None:
        super().__init__()
        self.eps, self.devices = eps, get_tensor_model_parallel_world_size()
        self.weight = own_part(torch.ones(width), first)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        square = wide.square().mean(-1, keepdim=True)
        if self.devices > 1:
            square = tensor_model_parallel_all_reduce(square) / self.devices
        return (self.weight * (wide * torch.rsqrt(square + self.eps)).to(x.dtype)).to(x.dtype)


class LatheAttention(nn.Module):
    """q, k, v and o projections around vLLM's attention, under the names of its Llama.

    norm_class: of each head's queries and keys. scale: of scores. softcap: what bounds them.

    Raises:
        ValueError: the devices cannot share the layer's heads.
    """

    def __init__(
        self,
        vllm_config: VllmConfig,
        index: int,
        prefix: str,
        norm_class: Any,
        scale: float | None = None,
        softcap: float | None = None,
    ) -> None:
        super().__init__()
        config: Any = vllm_config.model_config.hf_config
        widths, devices = config.per_layer_config[index], get_tensor_model_parallel_world_size()
        heads, kv_heads = widths.num_attention_heads, widths.num_key_value_heads
        self.head_dim = config.head_dim
        if heads % devices or (kv_heads % devices and devices % kv_heads):
            raise ValueError(
                f"layer {index}: {devices} devices cannot share {heads} query heads over {kv_heads} KV heads"
            )
        quant_config, attention_bias = vllm_config.quant_config, config.attention_bias
        self.qkv_proj = QKVParallelLinear(
            config.hidden_size,
            self.head_dim,
            heads,
            kv_heads,
            bias=attention_bias or config.qkv_bias,
            quant_config=quant_config,
            prefix=f"{prefix}.qkv_proj",
        )
        self.o_proj = RowParallelLinear(
            heads * self.head_dim,
            config.hidden_size,
            bias=attention_bias,
            quant_config=quant_config,
            prefix=f"{prefix}.o_proj",
        )
        own, own_kv = self.qkv_proj.num_heads, self.qkv_proj.num_kv_heads
        self.sizes = [own * self.head_dim, own_kv * self.head_dim, own_kv * self.head_dim]
        self.norms_heads = config.qk_norm and not config.qk_norm_whole
        self.norms_all = config.qk_norm and config.qk_norm_whole
        if self.norms_heads:
            self.q_norm, self.k_norm = (norm_class(self.head_dim, eps=config.rms_norm_eps) for _ in range(2))
        if self.norms_all:
            rank, copies = self.qkv_proj.tp_rank, self.qkv_proj.num_kv_head_replicas
            at = (rank * self.sizes[0], rank // copies * self.sizes[1])
            self.q_norm, self.k_norm = (
                SharedRMSNorm(size, config.rms_norm_eps, first)
                for size, first in zip(self.sizes, at, strict=False)
            )
        self.rotates = config.has_positions(index)
        if self.rotates:
            self.rotary_emb = get_rope(
                self.head_dim,
                max_position=config.max_position_embeddings,
                rope_parameters=config.rope(index),
                is_neox_style=True,
            )
        sinks = {}
        if getattr(config, "attention_sinks", False):
            self.sinks = own_part(torch.zeros(own), self.qkv_proj.tp_rank * own)
            sinks["sinks"] = self.sinks
        self.attn = WindowedAttention(
            own,
            self.head_dim,
            self.head_dim**-0.5 if scale is None else scale,
            num_kv_heads=own_kv,
            cache_config=vllm_config.cache_config,
            quant_config=quant_config,
            logits_soft_cap=softcap,
            per_layer_sliding_window=config.window(index) or None,
            prefix=f"{prefix}.attn",
            **sinks,
        )

    def forward(self, positions: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        qkv, _ = self.qkv_proj(hidden_states)
        q, k, v = qkv.split(self.sizes, dim=-1)
        if self.norms_heads:
            q = self.q_norm(q.view(*q.shape[:-1], -1, self.head_dim)).view(q.shape)
            k = self.k_norm(k.view(*k.shape[:-1], -1, self.head_dim)).view(k.shape)
        if self.norms_all:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.rotates:
            q, k = self.rotary_emb(positions, q, k)
        output, _ = self.o_proj(self.attn(q, k, v))
        return output
