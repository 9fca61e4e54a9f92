"""Models of random weights, written shard by shard: no more than a tensor is ever in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lathe.compressor.export.checkpoint import write_model
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.model.families import families
from lathe.compressor.model.safetensors_writer import Entry
from lathe.compressor.model.tensor_shapes import tensors

COMPANIONS = Path(__file__).resolve().parents[2] / "demo" / "model"
"""Whose tokenizer the models have."""
SHARD_BYTES = 2**30
_SCALE = 0.02

SHAPES: dict[str, dict[str, int]] = {
    "0.1b": {
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
    },
    "0.5b": {
        "hidden_size": 1536,
        "intermediate_size": 4096,
        "num_hidden_layers": 18,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
    },
    "1b": {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
    },
    "3b": {
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
    },
    "7b": {
        "hidden_size": 4096,
        "intermediate_size": 11_008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
    },
    "13b": {
        "hidden_size": 5120,
        "intermediate_size": 13_824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "num_key_value_heads": 40,
    },
}
"""By name, of about so many parameters; 1b is TinyLlama's, 3b Llama 3.2's but for the vocabulary, 7b and 13b
Llama 2's."""


def config_of(name: str) -> dict[str, Any]:
    """A config.json document."""
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_act": "silu",
        "vocab_size": 32_000,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e4,
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
        "bos_token_id": 0,
        "eos_token_id": 1,
    } | SHAPES[name]


def write_random(directory: Path, config: dict[str, Any], shard_bytes: int = SHARD_BYTES) -> None:
    """Writes a checkpoint with normally distributed matrices, norms of one and biases of zero."""
    family = families.get(config["model_type"])
    shape = family.shape(family.read(config))
    source = Checkpoint(COMPANIONS, directory.name, config, family, shape, {})
    entries = {name: Entry(dims, source.dtype) for name, dims in tensors(shape)}
    write_model(directory, source, config, entries, _random(entries), shard_bytes)


def _random(entries: dict[str, Entry]) -> Callable[[str], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def tensor(name: str) -> torch.Tensor:
        dims, dtype = entries[name]
        if name.endswith(".bias"):
            return torch.zeros(dims, dtype=dtype)
        if len(dims) == 1:
            return torch.ones(dims, dtype=dtype)
        return torch.empty(dims, dtype=dtype).normal_(std=_SCALE, generator=generator)

    return tensor
