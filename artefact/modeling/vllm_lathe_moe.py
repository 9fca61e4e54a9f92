"""An uneven mixture of experts for vLLM: every layer has its own number of experts, and width of each.

This file is shipped inside artefacts and imports nothing of Lathe but its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.model_executor.layers.fused_moe import FusedMoEFactory, GateLinear
from vllm.model_executor.models.llama import LlamaModel
from vllm.model_executor.models.utils import WeightsMapper

from .vllm_lathe_llama import LatheLlamaDecoderLayer, LatheLlamaForCausalLM


class LatheMoeMLP(nn.Module):
    """vLLM's router and experts, which are loaded one by one, because checkpoints have them concatenated."""

    biased = False

    def __init__(self, vllm_config: VllmConfig, index: int, prefix: str) -> None:
        super().__init__()
        config: Any = vllm_config.model_config.hf_config
        widths = config.per_layer_config[index]
        self.count, self.width = widths.experts, widths.intermediate_size
        self.router = GateLinear(config.hidden_size, self.count, bias=self.biased, prefix=f"{prefix}.router")
        self.experts = FusedMoEFactory(
            num_experts=self.count,
            top_k=config.experts_per_token,
            hidden_size=config.hidden_size,
            renormalize=config.normalised_shares,
            quant_config=vllm_config.quant_config,
            prefix=f"{prefix}.experts",
            **self.kind(config),
        )

    def kind(self, config: Any) -> dict[str, Any]:
        """Returns the width and the activation of experts as arguments of vLLM's layer."""
        return {"intermediate_size": self.width, "activation": config.hidden_act}

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        logits, _ = self.router(hidden_states)
        added: torch.Tensor = self.experts(hidden_states, logits)
        return added

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> Iterator[str]:
        """Loads weights and yields the names of the parameters that they filled."""
        for name, value in weights:
            module, kind = name.split(".")
            if module == "router":
                getattr(self.router, kind).data.copy_(value)
                yield name
            else:
                yield from (f"experts.{loaded}" for loaded in self.load_experts(name, value))

    def load_experts(self, name: str, value: torch.Tensor) -> Iterable[str]:
        """Loads a tensor of all experts and returns the names of the parameters that it filled."""
        parts = value.chunk(self.count, int(name.startswith("down_proj")))
        loaded: Iterable[str] = self.experts.load_weights(
            (f"{expert}.{name}", part) for expert, part in enumerate(parts)
        )
        return loaded


class LatheMoeDecoderLayer(LatheLlamaDecoderLayer):
    """A decoder layer whose FFN is a mixture of experts."""

    def new_mlp(self, vllm_config: VllmConfig, index: int, prefix: str) -> nn.Module:
        return LatheMoeMLP(vllm_config, index, prefix)


class LatheMoeModel(LlamaModel):
    """vLLM's Llama, whose weights are stacked for attention only."""

    hf_to_vllm_mapper = WeightsMapper(
        orig_to_new_stacked={f".{name}_proj": (".qkv_proj", name) for name in "qkv"}
    )


class LatheMoeForCausalLM(LatheLlamaForCausalLM):
    """The decoder with its language-model head."""

    layer_class = LatheMoeDecoderLayer
    model_class = LatheMoeModel
    hf_to_vllm_mapper = LatheMoeModel.hf_to_vllm_mapper
    packed_modules_mapping = {"qkv_proj": ["q_proj", "k_proj", "v_proj"]}
