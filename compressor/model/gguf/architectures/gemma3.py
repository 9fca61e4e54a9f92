"""Gemma 3 without images: normalised queries and keys, and windows in five layers of six."""

from typing import Any

from lathe.artefact.errors import UserError
from lathe.artefact.gguf.file import GgufModel
from lathe.compressor.model.gguf.architectures.base import (
    ATTENTION,
    FFN,
    QK_NORMS,
    Architecture,
    architectures,
)
from lathe.compressor.model.gguf.architectures.gemma2 import NORMS, WINDOW, query_scale
from lathe.compressor.model.gguf.rope import rope_parameters

_LAYERS_OF_27B = 62
_PATTERN, _USUAL_PATTERN = "attention.sliding_window_pattern", 6
_WINDOW_THETA = "rope.freq_base_swa"


def _settings(model: GgufModel) -> dict[str, Any]:
    name = model.architecture
    head_dim = model.required(f"{name}.attention.key_length", int)
    window_theta = model.get(f"{name}.{_WINDOW_THETA}", float, 10000.0)
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": query_scale(model, _LAYERS_OF_27B),
        "sliding_window": model.required(f"{name}.{WINDOW}", int),
        "layer_types": ["sliding_attention" if slides else "full_attention" for slides in _slides(model)],
        "attn_logit_softcapping": None,
        "final_logit_softcapping": model.get(f"{name}.final_logit_softcapping", float) or None,
        "rope_parameters": {
            "full_attention": rope_parameters(model, head_dim),
            "sliding_attention": {"rope_theta": window_theta, "rope_type": "default"},
        },
    }


def _slides(model: GgufModel) -> list[bool]:
    """Returns for each layer whether it has a window."""
    layers = model.required(f"{model.architecture}.block_count", int)
    given = model.metadata.get(f"{model.architecture}.{_PATTERN}", _USUAL_PATTERN)
    if isinstance(given, list) and len(given) == layers:
        return [bool(slides) for slides in given]
    if isinstance(given, int) and given > 0:
        return [(layer + 1) % given != 0 for layer in range(layers)]
    raise UserError(f"`{_PATTERN}` of {model.path} is {given!r}", "The file is damaged, or newer than Lathe.")


GEMMA3 = architectures.add(
    "gemma3",
    Architecture(
        "gemma3_text",
        "Gemma3ForCausalLM",
        {**ATTENTION, **FFN, **QK_NORMS, **NORMS},
        norm_offset=1.0,
        settings=_settings,
        keys=frozenset({WINDOW, _PATTERN, _WINDOW_THETA, "final_logit_softcapping"}),
    ),
)
