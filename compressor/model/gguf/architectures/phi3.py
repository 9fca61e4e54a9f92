"""Phi-3 and Phi-4: queries, keys and values in one matrix, gate and up in another, in GGUF as well."""

from typing import Any

from lathe.artefact.gguf.file import GgufModel
from lathe.compressor.model.gguf.architectures.base import NORMS, Architecture, architectures

_WINDOW = "attention.sliding_window"
_MODULES = {
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_up": "mlp.gate_up_proj",
    "ffn_down": "mlp.down_proj",
    **NORMS,
}


def _settings(model: GgufModel) -> dict[str, Any]:
    window = model.get(f"{model.architecture}.{_WINDOW}", int)
    original = model.get(f"{model.architecture}.rope.scaling.original_context_length", int)
    given = {} if original is None else {"original_max_position_embeddings": original}
    return {"sliding_window": window or None, **given}


PHI3 = architectures.add(
    "phi3",
    Architecture(
        "phi3",
        "Phi3ForCausalLM",
        _MODULES,
        partly_rotated=True,
        settings=_settings,
        keys=frozenset({_WINDOW}),
    ),
)
