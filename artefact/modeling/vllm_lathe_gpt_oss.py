"""An uneven gpt-oss for vLLM: every layer has its own number of experts, and width of each.

This file is shipped inside artefacts and imports nothing of Lathe but its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.functional import pad
from vllm.config import VllmConfig
from vllm.distributed import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size

from .vllm_lathe_moe import LatheMoeDecoderLayer, LatheMoeForCausalLM, LatheMoeMLP

_TILE = 32
"""The number of channels that the CPU kernel computes together."""


class LatheGptOssMLP(LatheMoeMLP):
    """Experts with biases, in the layout of vLLM's kernels.

    Rows of gate and up are interleaved, and channels of zeros fill the last tile. (The kernels have 1.702 and
    7 as the constants of the gate, whatever the config says.)
    """

    biased = True

    def kind(self, _config: Any) -> dict[str, Any]:
        tile = _TILE * get_tensor_model_parallel_world_size()
        self.filled = -(-self.width // tile) * tile
        return {"intermediate_size": self.filled, "activation": "swigluoai", "has_bias": True}

    def load_experts(self, name: str, value: torch.Tensor) -> Iterable[str]:
        experts, rank = self.experts.routed_experts, get_tensor_model_parallel_rank()
        module, kind = name.split(".")
        own = self.filled // get_tensor_model_parallel_world_size()
        mine, fill = slice(rank * own, (rank + 1) * own), self.filled - self.width
        if module == "share_proj":
            experts.w2_bias.data.copy_(value.T if rank == 0 else torch.zeros_like(value.T))
            return ["routed_experts.w2_bias"]
        if module == "down_proj":
            down_EDF = value.unflatten(1, (self.count, -1)).transpose(0, 1)
            experts.w2_weight.data.copy_(pad(down_EDF, (0, fill))[..., mine])
            return ["routed_experts.w2_weight"]
        rows_EFx = value.unflatten(0, (self.count, -1))
        rows_EFx = pad(rows_EFx, (0, 0) * (rows_EFx.dim() - 2) + (0, fill))[:, mine]
        getattr(experts, f"w13_{kind}").data[:, int(module == "up_proj") :: 2].copy_(rows_EFx)
        return [f"routed_experts.w13_{kind}"]


class LatheGptOssDecoderLayer(LatheMoeDecoderLayer):
    """A decoder layer with the experts of a gpt-oss."""

    def new_mlp(self, vllm_config: VllmConfig, index: int, prefix: str) -> nn.Module:
        return LatheGptOssMLP(vllm_config, index, prefix)


class LatheGptOssForCausalLM(LatheMoeForCausalLM):
    """The decoder with its language-model head."""

    layer_class = LatheGptOssDecoderLayer
