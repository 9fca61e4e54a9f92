"""Module paths of our exported model, which are Llama's.

A family's checkpoints may use other names (`Family.checkpoint_names`); everything behind the reader uses
these. Paths of a layer's modules are relative to the layer.
"""

from __future__ import annotations

LAYER = "model.layers.{i}"
ATTENTION_NORM = "input_layernorm"
Q_PROJ = "self_attn.q_proj"
K_PROJ = "self_attn.k_proj"
V_PROJ = "self_attn.v_proj"
Q_NORM = "self_attn.q_norm"
K_NORM = "self_attn.k_norm"
SINKS = "self_attn.sinks"
O_PROJ = "self_attn.o_proj"
ATTENTION_OUTPUT_NORM = "attention_output_norm"
FFN_NORM = "post_attention_layernorm"
GATE_PROJ = "mlp.gate_proj"
UP_PROJ = "mlp.up_proj"
DOWN_PROJ = "mlp.down_proj"
ROUTER = "mlp.router"
SHARE_PROJ = "mlp.share_proj"
FFN_OUTPUT_NORM = "ffn_output_norm"
EMBEDDING = "model.embed_tokens"
POSITIONS = "model.embed_positions"
FINAL_NORM = "model.norm"
LM_HEAD = "lm_head"


def layer_prefix(index: int) -> str:
    """Returns the prefix of a layer's tensor names."""
    return LAYER.format(i=index) + "."


def in_layer(name: str) -> tuple[int, str]:
    """Returns a layer's number, and the rest of the name, from the name of something in a layer.

    It is the inverse of a `layer_prefix` with a rest behind it.
    """
    index, _, rest = name.removeprefix(LAYER.format(i="")).partition(".")
    return int(index), rest


def of_attention(name: str) -> bool:
    """Tells whether a tensor of a layer, named relative to it, is the attention block's."""
    return name.startswith(("self_attn.", f"{ATTENTION_NORM}.", f"{ATTENTION_OUTPUT_NORM}."))
