"""Gemma 2 with even layers: soft caps, and a window in every other layer."""

from collections.abc import Iterator
from typing import Any

from lathe.compressor.export.gguf.features import (
    GELU,
    LOGIT_CAP,
    NORM_AFTER,
    NORM_BEFORE,
    ROPE_LINEAR,
    SCALED_EMBEDDING,
    SCORE_CAP,
)
from lathe.compressor.export.gguf.hosts.base import Host, hosts
from lathe.compressor.export.gguf.subnet import Subnet
from lathe.compressor.model.gguf.architectures.base import ATTENTION, FFN

NORMS = {
    "attn_norm": "input_layernorm",
    "post_attention_norm": "attention_output_norm",
    "ffn_norm": "post_attention_layernorm",
    "post_ffw_norm": "ffn_output_norm",
}
"""Norms before and after each block."""
ALWAYS = frozenset({NORM_BEFORE, NORM_AFTER, GELU, SCALED_EMBEDDING})
"""What both Gemmas compute."""
_LAYERS_OF_27B, _EVERY = 46, 2


def odd_scale(model: Subnet, layers_of_27b: int) -> Iterator[str]:
    """Yields what is odd where scores are not scaled as llama.cpp scales those of a model of that depth."""
    width, heads = model.shape.hidden_size, model.plan[0].query_heads
    whole = model.shape.num_layers == layers_of_27b
    if int(model.config["query_pre_attn_scalar"]) != (width // heads if whole else model.shape.head_dim):
        yield f"`query_pre_attn_scalar` of {model.config['query_pre_attn_scalar']}"


def window(model: Subnet) -> dict[str, Any]:
    """Returns the metadata of the window; one of all positions is as wide as the context."""
    return {"attention.sliding_window": max(model.windows) or int(model.config["max_position_embeddings"])}


def _odds(model: Subnet) -> Iterator[str]:
    yield from odd_scale(model, _LAYERS_OF_27B)
    if any(model.windows) and [bool(w) for w in model.windows] != [
        bool((i + 1) % _EVERY) for i in range(model.shape.num_layers)
    ]:
        yield "windows but in every other layer"


def _settings(model: Subnet) -> dict[str, Any]:
    caps = ("attn_logit_softcapping", "final_logit_softcapping")
    return window(model) | {key: float(model.config[key]) for key in caps}


GEMMA2 = hosts.add(
    "gemma2",
    Host(
        "gemma2",
        {**NORMS, **ATTENTION, **FFN},
        takes=frozenset({ROPE_LINEAR}),
        needs=ALWAYS | {SCORE_CAP, LOGIT_CAP},
        windows=True,
        norm_offset=1.0,
        odds=_odds,
        settings=_settings,
    ),
)
