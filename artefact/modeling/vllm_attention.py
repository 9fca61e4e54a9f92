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
"""The arguments of a model whose sizes change from step to step, with the dimension that does."""


class WindowedAttention(Attention):
    """Windowed attention that keeps the cache of tokens outside its window.

    Layers of different widths have pages of different sizes, and vLLM can allocate those only if all layers
    have one kind of attention.
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
    """Makes a parameter of one device that is loaded with the checkpoint's rows from `first` on."""
    parameter = nn.Parameter(value, requires_grad=False)

    def load(own: nn.Parameter, loaded: torch.Tensor) -> None:
        own.data.copy_(loaded[first : first + len(value)])

    parameter.weight_loader = load  # type: ignore[attr-defined]
    return parameter


class SharedRMSNorm(nn.Module):
    """RMS normalisation over all heads, of which every device has the same number.

    A device loads the part of the weights that belongs to its part of the projection.
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
    """The q, k, v and o projections around vLLM's attention, under the names of its Llama.

    Args:
        vllm_config: The configuration of the engine, which has the model's.
        index: The layer's index in the checkpoint.
        prefix: The module's name in the model.
        norm_class: The norm of each head's queries and keys.
        scale: The scale of scores; by default the usual one.
        softcap: The soft cap of scores, or None.

    Raises:
        ValueError: The devices cannot share the layer's heads.
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
        self._add_projections(config, heads, kv_heads, vllm_config.quant_config, prefix)
        own, own_kv = self.qkv_proj.num_heads, self.qkv_proj.num_kv_heads
        self.sizes = [own * self.head_dim, own_kv * self.head_dim, own_kv * self.head_dim]
        self._add_norms(config, norm_class)
        self.rotates = config.has_positions(index)
        if self.rotates:
            self.rotary_emb = get_rope(
                self.head_dim,
                max_position=config.max_position_embeddings,
                rope_parameters=config.rope(index),
                is_neox_style=True,
            )
        self.attn = WindowedAttention(
            own,
            self.head_dim,
            self.head_dim**-0.5 if scale is None else scale,
            num_kv_heads=own_kv,
            cache_config=vllm_config.cache_config,
            quant_config=vllm_config.quant_config,
            logits_soft_cap=softcap,
            per_layer_sliding_window=config.window(index) or None,
            prefix=f"{prefix}.attn",
            **self._sinks(config),
        )

    def _add_projections(
        self, config: Any, heads: int, kv_heads: int, quant_config: Any, prefix: str
    ) -> None:
        self.qkv_proj = QKVParallelLinear(
            config.hidden_size,
            self.head_dim,
            heads,
            kv_heads,
            bias=config.attention_bias or config.qkv_bias,
            quant_config=quant_config,
            prefix=f"{prefix}.qkv_proj",
        )
        self.o_proj = RowParallelLinear(
            heads * self.head_dim,
            config.hidden_size,
            bias=config.attention_bias,
            quant_config=quant_config,
            prefix=f"{prefix}.o_proj",
        )

    def _add_norms(self, config: Any, norm_class: Any) -> None:
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

    def _sinks(self, config: Any) -> dict[str, nn.Parameter]:
        """Adds the parameter of attention sinks if the model has them; returns it as an argument."""
        if not getattr(config, "attention_sinks", False):
            return {}
        own = self.qkv_proj.num_heads
        self.sinks = own_part(torch.zeros(own), self.qkv_proj.tp_rank * own)
        return {"sinks": self.sinks}

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
