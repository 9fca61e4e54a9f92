"""OPT: learned positions, LayerNorms, biases everywhere, ReLU and no gate."""

from collections.abc import Mapping
from typing import Any

from lathe.artefact.errors import UserError
from lathe.compressor.model.families.base import Family, register

_USUAL = {
    "do_layer_norm_before": True,
    "layer_norm_elementwise_affine": True,
    "_remove_final_layer_norm": False,
}


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """OPT's settings under our names. OPT-350m is another model: norms after blocks, narrow embeddings."""
    for name, usual in _USUAL.items():
        if config.get(name, usual) != usual:
            value = config[name]
            raise UserError(f"config.json sets `{name}` to {value}, which is not supported for `opt`")
    if (config.get("word_embed_proj_dim") or config["hidden_size"]) != config["hidden_size"]:
        raise UserError("config.json has embeddings of another width than layers: not supported for `opt`")
    return {
        "intermediate_size": config["ffn_dim"],
        "num_key_value_heads": config["num_attention_heads"],
        "head_dim": config["hidden_size"] // config["num_attention_heads"],
        "hidden_act": config["activation_function"],
        "learned_positions": config["max_position_embeddings"],
        "attention_bias": config["enable_bias"],
        "mlp_bias": config["enable_bias"],
    }


OPT = register(
    Family(
        model_type="opt",
        description="OPT, but for OPT-350m",
        exported_type="lathe_opt",
        config_defaults={
            "max_position_embeddings": 2048,
            "activation_function": "relu",
            "enable_bias": True,
            "tie_word_embeddings": True,
            "rms_norm_eps": 1e-5,
        },
        derived=_settings,
        config_overrides={"norm_bias": True, "ffn_gate": False},
        rope_types=("default",),
        checkpoint_names={
            "model.layers": "model.decoder.layers",
            "model.embed_tokens": "model.decoder.embed_tokens",
            "model.embed_positions": "model.decoder.embed_positions",
            "model.norm": "model.decoder.final_layer_norm",
            "input_layernorm": "self_attn_layer_norm",
            "post_attention_layernorm": "final_layer_norm",
            "self_attn.o_proj": "self_attn.out_proj",
            "mlp.up_proj": "fc1",
            "mlp.down_proj": "fc2",
        },
        position_offset=2,
    )
)
