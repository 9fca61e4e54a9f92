"""Tiny models that llama.cpp has architectures for, by the names of their cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lathe.compressor.model.checkpoint import Checkpoint, open_checkpoint
from support.tiny_families import CASES, FULL, random_model
from support.tiny_llama import HEAD_DIM, HEADS

_YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 8.0,
    "original_max_position_embeddings": 64,
}
_OWN: dict[str, dict[str, Any]] = {
    "llama, linear rope": {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
    "llama, yarn": {"rope_parameters": _YARN},
    "qwen2, as wide as its heads": {"hidden_size": HEADS * HEAD_DIM},
    "qwen3, tied": {"tie_word_embeddings": True},
    "qwen3, tied, yarn": {"tie_word_embeddings": True, "rope_parameters": _YARN},
    "smollm3, every fourth": {"no_rope_layers": [1, 1, 1, 0]},
    "olmo2, as wide as its heads": {"hidden_size": HEADS * HEAD_DIM},
    "gemma2, usual scale": {"query_pre_attn_scalar": HEAD_DIM, "sliding_window": 16},
    "gemma3_text, usual scale": {
        "query_pre_attn_scalar": HEAD_DIM,
        "sliding_window": 16,
        "layer_types": ["sliding_attention"] * 3 + FULL,
    },
}
_SHARED = (
    "llama, plain",
    "llama, tied",
    "llama, biased",
    "llama, llama3 rope",
    "mistral",
    "qwen2",
    "qwen2, tied",
    "qwen3",
    "phi3",
)
HOSTED: dict[str, tuple[str, str | None]] = {
    **dict.fromkeys(_SHARED, ("llama", "deci")),
    **dict.fromkeys(("llama, linear rope", "llama, yarn"), ("llama", "deci")),
    "qwen2, as wide as its heads": ("qwen2", "deci"),
    "qwen3": ("qwen3", None),
    "qwen3, tied": ("qwen3", "openelm"),
    "qwen3, tied, yarn": ("qwen3", "openelm"),
    "smollm3, every fourth": ("smollm3", None),
    "olmo2, as wide as its heads": ("olmo2", None),
    "gemma2, usual scale": ("gemma2", None),
    "gemma3_text, usual scale": ("gemma3", None),
}
"""The architectures of even and of uneven models."""


def hosted_checkpoint(directory: Path, case: str, **changes: Any) -> Checkpoint:
    """A random dense checkpoint without a tokenizer."""
    family = case.split(",")[0]
    settings = {"model_type": family, **_OWN[case]} if case in _OWN else CASES[case]
    model = random_model(next(name for name in CASES if name.split(",")[0] == family), **settings | changes)
    model.save_pretrained(directory)
    return open_checkpoint(str(directory))
