"""Shapes whose latency is asked for: random weights, as time depends on widths alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_COMMON: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "torch_dtype": "float32",
}
_DIMENSIONS = {
    "tiny": (64, 2, 4, 2, 32, 128, 2048, False),
    "10m": (256, 8, 8, 4, 32, 1024, 8192, True),
    "90m": (768, 12, 12, 4, 64, 2048, 8192, False),
    "400m": (1280, 20, 20, 5, 64, 3584, 16_384, True),
    "1b": (2048, 16, 32, 8, 64, 8192, 32_000, True),
}
"""hidden size, layers, query heads, KV heads, head dimension, FFN, vocabulary, tied embeddings."""
SHAPES = tuple(_DIMENSIONS)


def write_shape(name: str, directory: Path) -> Path:
    """A directory with a config.json, which is all that timing needs."""
    hidden, layers, heads, kv_heads, head_dim, ffn, vocabulary, tied = _DIMENSIONS[name]
    config = _COMMON | {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "intermediate_size": ffn,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
    }
    path = directory / name
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config, indent=2))
    return path
