"""Rotary tables, made by transformers' own code so that every scaling matches it exactly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from compressor.errors import UserError

_POSITIONAL = ("rope_parameters", "rope_theta", "rope_scaling", "original_max_position_embeddings")
_FIXED_TYPES = ("default", "linear", "llama3", "yarn")


def check_rope(config: Mapping[str, Any]) -> None:
    """Refuse what a fixed table cannot reproduce.

    Raises:
        UserError: a rope type whose frequencies change with the sequence length.
    """
    parameters = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    rope_type = parameters.get("rope_type", parameters.get("type", "default"))
    if rope_type not in _FIXED_TYPES:
        raise UserError(
            f"rope type `{rope_type}` cannot be exported to ONNX: a fixed table cannot reproduce it",
            f"Supported: {', '.join(_FIXED_TYPES)}.",
        )


def rotary_tables(config: Mapping[str, Any], head_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines, float32 [max_position_embeddings, head_dim / 2], attention scaling included.

    `config` must pass `check_rope`.
    """
    positions = int(config.get("max_position_embeddings") or 2048)
    rotary = LlamaRotaryEmbedding(
        LlamaConfig(
            hidden_size=head_dim,
            num_attention_heads=1,
            head_dim=head_dim,
            max_position_embeddings=positions,
            **{key: config[key] for key in _POSITIONAL if config.get(key) is not None},
        )
    )
    cos, sin = rotary(torch.zeros(1), torch.arange(positions))
    return cos[:, : head_dim // 2].contiguous(), sin[:, : head_dim // 2].contiguous()
