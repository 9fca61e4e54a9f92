"""Gemma 2: norms before and after each block, soft caps, a window in every other layer."""

from typing import Any

from lathe.artefact.gguf.file import GgufModel
from lathe.compressor.model.gguf.architectures.base import ATTENTION, FFN, Architecture, architectures

NORMS = {
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
WINDOW = "attention.sliding_window"
_LAYERS_OF_27B = 46


def query_scale(model: GgufModel, layers_of_27b: int) -> int:
    """Returns `query_pre_attn_scalar`, which llama.cpp takes from the size: the 27B model has its own."""
    name = model.architecture
    if model.required(f"{name}.block_count", int) == layers_of_27b:
        width, heads = (
            model.required(f"{name}.{key}", int) for key in ("embedding_length", "attention.head_count")
        )
        return int(width // max(heads, 1))
    return int(model.required(f"{name}.attention.key_length", int))


def _settings(model: GgufModel) -> dict[str, Any]:
    name = model.architecture
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": query_scale(model, _LAYERS_OF_27B),
        "sliding_window": model.required(f"{name}.{WINDOW}", int),
        "attn_logit_softcapping": model.get(f"{name}.attn_logit_softcapping", float, 50.0),
        "final_logit_softcapping": model.get(f"{name}.final_logit_softcapping", float, 30.0),
    }


GEMMA2 = architectures.add(
    "gemma2",
    Architecture(
        "gemma2",
        "Gemma2ForCausalLM",
        {**ATTENTION, **FFN, **NORMS},
        norm_offset=1.0,
        settings=_settings,
        keys=frozenset({WINDOW, "attn_logit_softcapping", "final_logit_softcapping"}),
    ),
)
