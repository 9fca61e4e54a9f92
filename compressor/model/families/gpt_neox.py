"""GPT-NeoX: LayerNorms, biases, no gate, a part of each head rotated, both blocks read a layer's input."""

from collections.abc import Mapping
from typing import Any

from lathe.compressor.model.families.base import Family, register
from lathe.compressor.model.families.refusals import rope_of


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """GPT-NeoX's settings under our names."""
    given = rope_of(config)
    rope = {
        "rope_type": given.get("type", "default"),
        "rope_theta": config["rotary_emb_base"],
        "partial_rotary_factor": config["rotary_pct"],
        **given,
    }
    return {
        "num_key_value_heads": config["num_attention_heads"],
        "head_dim": config["hidden_size"] // config["num_attention_heads"],
        "rms_norm_eps": config["layer_norm_eps"],
        "rope_parameters": rope,
        "rope_scaling": None,
        "parallel_blocks": config["use_parallel_residual"],
    }


GPT_NEOX = register(
    Family(
        model_type="gpt_neox",
        description="Pythia, GPT-NeoX-20B, Dolly v2, RedPajama-INCITE",
        exported_type="lathe_neox",
        config_defaults={
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-5,
            "rotary_emb_base": 10000,
            "rotary_pct": 0.25,
            "attention_bias": True,
            "use_parallel_residual": True,
        },
        derived=_settings,
        config_overrides={"norm_bias": True, "mlp_bias": True, "ffn_gate": False},
        rope_types=("default", "linear"),
        partial_rotary=True,
        interleaved={
            "self_attn.query_key_value": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        },
        checkpoint_names={
            "model.layers": "gpt_neox.layers",
            "model.embed_tokens": "gpt_neox.embed_in",
            "model.norm": "gpt_neox.final_layer_norm",
            "lm_head": "embed_out",
            "self_attn.query_key_value": "attention.query_key_value",
            "self_attn.o_proj": "attention.dense",
            "mlp.up_proj": "mlp.dense_h_to_4h",
            "mlp.down_proj": "mlp.dense_4h_to_h",
        },
        base_prefix="gpt_neox",
        name_aliases={"lm_head.": "embed_out."},
    )
)
