"""Architectures: what a GGUF file's tensors are called in a checkpoint, and how its metadata is a config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lathe.artefact.errors import UserError
from lathe.artefact.gguf.file import GgufModel
from lathe.artefact.registry import Registry

ATTENTION = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
}
FFN = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
QK_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}


@dataclass(frozen=True)
class Architecture:
    """A GGUF architecture as data.

    Attributes:
        model_type: The Hugging Face model type of its checkpoints.
        causal_class: The class of transformers that a config.json names.
        modules: The modules of a layer by their names in GGUF.
        interleaved: Whether the rows of queries and keys are in llama.cpp's order of rotary positions.
        norm_offset: What GGUF adds to the weights of norms.
        biases: Whether a checkpoint may have biases, which its config states.
        partly_rotated: Whether a part of each head may be without rotary positions.
        settings: Computes settings that only this architecture has.
        keys: The metadata that `settings` reads, without the architecture's name.
    """

    model_type: str
    causal_class: str
    modules: Mapping[str, str]
    interleaved: bool = False
    norm_offset: float = 0.0
    biases: bool = False
    partly_rotated: bool = False
    settings: Callable[[GgufModel], dict[str, Any]] = lambda _model: {}
    keys: frozenset[str] = field(default_factory=frozenset)


architectures: Registry[Architecture] = Registry(
    "GGUF architecture", "lathe.compressor.model.gguf.architectures"
)
"""Every architecture by its name in GGUF."""


def architecture_of(model: GgufModel) -> Architecture:
    """Returns the architecture of a model.

    Raises:
        UserError: It is none that Lathe reads; names those.
    """
    name = model.architecture
    if name in architectures.known():
        return architectures.get(name)
    raise UserError(
        f"{model.path} is of the GGUF architecture `{name}`, which Lathe does not read",
        f"It reads: {', '.join(architectures.known())}.",
    )
