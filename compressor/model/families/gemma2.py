"""Gemma 2: norms before and after each block, soft caps, scaled embeddings, a window in every other layer."""

from collections.abc import Mapping
from typing import Any

from lathe.compressor.model.families.base import Family, register
from lathe.compressor.model.families.windows import all_but_every

NORMS = {
    "attention_output_norm": "post_attention_layernorm",
    "post_attention_layernorm": "pre_feedforward_layernorm",
    "ffn_output_norm": "post_feedforward_layernorm",
}
SETTINGS = {"norm_after": True, "norm_offset": 1.0, "scaled_embedding": True, "mlp_bias": False}
DEFAULTS = {
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "final_logit_softcapping": None,
    "attn_logit_softcapping": None,
}


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Gemma's settings under our names; `hidden_act` of old config files is one that transformers ignores."""
    kept = ("query_pre_attn_scalar", "final_logit_softcapping", "attn_logit_softcapping")
    return {"hidden_act": config["hidden_activation"], **{name: config[name] for name in kept}}


GEMMA2 = register(
    Family(
        model_type="gemma2",
        description="Gemma 2",
        exported_type="lathe_gemma",
        config_defaults={
            **DEFAULTS,
            "max_position_embeddings": 8192,
            "final_logit_softcapping": 30.0,
            "attn_logit_softcapping": 50.0,
        },
        derived=settings,
        config_overrides=SETTINGS,
        uses_sliding_window=all_but_every(2),
        rope_types=("default", "linear"),
        checkpoint_names=NORMS,
    )
)
