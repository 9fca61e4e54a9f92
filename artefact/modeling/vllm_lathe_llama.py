"""An uneven Llama for vLLM: every layer is built from its own widths, and blocks may be absent.

Everything but the layer is vLLM's own Llama, and so are weight names, tensor and pipeline parallelism, LoRA
and quantization. This file is shipped inside artefacts and imports nothing of Lathe but its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.models.llama import LlamaDecoderLayer, LlamaForCausalLM, LlamaMLP, LlamaModel
from vllm.model_executor.models.utils import extract_layer_index
from vllm.platforms import current_platform

from .vllm_attention import LatheAttention
from .vllm_plugin import CPU_HEAD_SIZES
from .vllm_quantized import checked, refuse_formats


class LatheLlamaDecoderLayer(LlamaDecoderLayer):
    """A decoder layer with its own widths; without attention or FFN where the config drops them."""

    norm_class: Any = RMSNorm

    def __init__(self, vllm_config: VllmConfig, prefix: str = "") -> None:
        nn.Module.__init__(self)
        config: Any = vllm_config.model_config.hf_config
        self.config = config
        index = extract_layer_index(prefix)
        self.has_attention = config.has_block("attention", index)
        self.has_ffn = config.has_block("ffn", index)
        if self.has_attention:
            self.self_attn = self.new_attention(vllm_config, index, f"{prefix}.self_attn")
            self.input_layernorm = self._norm(config.norm_before)
            self.attention_output_norm = self._norm(config.norm_after)
        if self.has_ffn:
            self.mlp = self.new_mlp(vllm_config, index, f"{prefix}.mlp")
            self.post_attention_layernorm = self._norm(config.norm_before)
            self.ffn_output_norm = self._norm(config.norm_after)

    def new_attention(self, vllm_config: VllmConfig, index: int, prefix: str) -> LatheAttention:
        return LatheAttention(vllm_config, index, prefix, self.norm_class)

    def new_mlp(self, vllm_config: VllmConfig, index: int, prefix: str) -> nn.Module:
        return LlamaMLP(
            hidden_size=self.config.hidden_size,
            intermediate_size=self.config.per_layer_config[index].intermediate_size,
            hidden_act=self.config.hidden_act,
            quant_config=self.get_quant_config(vllm_config),
            bias=self.config.mlp_bias,
            prefix=prefix,
        )

    def _norm(self, present: bool) -> Any:
        return self.norm_class(self.config.hidden_size, eps=self.config.rms_norm_eps) if present else None

    def forward(
        self, positions: torch.Tensor, hidden_states: torch.Tensor, residual: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Runs the layer.

        The next norm, whichever layer it is in, adds a block's output to `residual`.
        """
        if residual is None:
            residual = torch.zeros_like(hidden_states)
        if self.has_attention:
            read, residual = _incoming(self.input_layernorm, hidden_states, residual)
            hidden_states = _outgoing(self.attention_output_norm, self.self_attn(positions, read))
        if self.has_ffn:
            read, residual = _incoming(self.post_attention_layernorm, hidden_states, residual)
            hidden_states = _outgoing(self.ffn_output_norm, self.mlp(read))
        return hidden_states, residual


def _incoming(norm: Any, hidden: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the input of a block, and the residual stream with everything added up."""
    if norm is not None:
        read, residual = norm(hidden, residual)
        return read, residual
    return (total := hidden + residual), total


def _outgoing(norm: Any, hidden: torch.Tensor) -> Any:
    """Returns what a block adds to the residual stream."""
    return hidden if norm is None else norm(hidden)


class LatheLlamaForCausalLM(LlamaForCausalLM):
    """vLLM's Llama with our layers.

    Raises:
        ValueError: The CPU build has no attention kernel for the head size, which vLLM itself would find out
            only when the first request kills the engine; or there is no kernel for a format of weights.
    """

    layer_class: Any = LatheLlamaDecoderLayer
    model_class: Any = LlamaModel

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        head_dim = vllm_config.model_config.get_head_size()
        if current_platform.is_cpu() and head_dim not in CPU_HEAD_SIZES:
            raise ValueError(
                f"vLLM has no CPU attention kernel for heads of size {head_dim}; it has them for "
                f"{', '.join(map(str, CPU_HEAD_SIZES))}"
            )
        refuse_formats(vllm_config.quant_config, current_platform.is_cpu())
        super().__init__(vllm_config=vllm_config, prefix=prefix, layer_type=self.layer_class)
        self.quant_config = vllm_config.quant_config
        self._checkpoint: Any = vllm_config.model_config.hf_config

    def _init_model(self, vllm_config: VllmConfig, prefix: str = "", layer_type: Any = None) -> nn.Module:
        model: nn.Module = self.model_class(vllm_config=vllm_config, prefix=prefix, layer_type=layer_type)
        return model

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Loads a checkpoint's weights and returns the names of the parameters that they filled.

        Raises:
            ValueError: Scales of quantized weights are damaged.
        """
        if self._checkpoint.shared_rows:
            weights = ((name, tensor[: self._checkpoint.rows(name)]) for name, tensor in weights)
        loaded: set[str] = super().load_weights(checked(weights, self.quant_config))
        return loaded
