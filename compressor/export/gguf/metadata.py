"""The metadata of a GGUF file that is about the model: dimensions, widths of the layers, rotary positions."""

from __future__ import annotations

from typing import Any

from lathe.artefact.checkpoint_config import max_positions
from lathe.compressor.export.gguf.hosts import Host
from lathe.compressor.export.gguf.subnet import Subnet
from lathe.compressor.export.gguf.tensors import written_widths

_YARN = {"beta_fast": "yarn_beta_fast", "beta_slow": "yarn_beta_slow"}


def metadata_of(host: Host, model: Subnet) -> dict[str, Any]:
    """Returns metadata by key.

    Widths are numbers where all layers have the same, as other readers of such files expect, else lists.
    """
    shape, widths = model.shape, written_widths(host, model)
    found: dict[str, Any] = {
        "context_length": context_of(host, model),
        "embedding_length": shape.hidden_size,
        "block_count": shape.num_layers,
        "feed_forward_length": _same([layer.ffn for layer in widths]),
        "attention.head_count": _same([layer.query_heads for layer in widths]),
        "attention.head_count_kv": _same([layer.kv_heads for layer in widths]),
        "attention.key_length": shape.head_dim,
        "attention.value_length": shape.head_dim,
        "attention.layer_norm_rms_epsilon": float(model.config.get("rms_norm_eps", 1e-6)),
        "rope.dimension_count": shape.head_dim,
        "vocab_size": shape.vocab_size,
        **_rope(model),
        **host.settings(model),
    }
    return {f"{host.architecture}.{key}": value for key, value in found.items()}


def context_of(host: Host, model: Subnet) -> int:
    """Returns the longest context, in tokens: within the smallest window where a host has no windows."""
    used = [window for window in model.windows if window]
    longest = max_positions(model.config)
    return longest if host.windows else min([longest, *used])


def _rope(model: Subnet) -> dict[str, Any]:
    rope = model.rope
    found: dict[str, Any] = {"rope.freq_base": rope["rope_theta"]}
    if rope["rope_type"] not in ("linear", "yarn"):
        return found
    found |= {"rope.scaling.type": rope["rope_type"], "rope.scaling.factor": float(rope["factor"])}
    if rope["rope_type"] == "yarn":
        original = rope.get("original_max_position_embeddings") or max_positions(model.config)
        found["rope.scaling.original_context_length"] = int(original)
        found |= {f"rope.scaling.{key}": float(rope[name]) for name, key in _YARN.items() if rope.get(name)}
    return found


def _same(values: list[int]) -> int | list[int]:
    return values[0] if len(set(values)) == 1 else values
