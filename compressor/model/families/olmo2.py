"""OLMo 2: norms follow the blocks, and queries and keys are normalised over all heads together."""

from lathe.compressor.model.families.base import Family, register

AFTER = {"attention_output_norm": "post_attention_layernorm", "ffn_output_norm": "post_feedforward_layernorm"}
SETTINGS = {
    "norm_before": False,
    "norm_after": True,
    "qk_norm": True,
    "qk_norm_whole": True,
    "mlp_bias": False,
}

OLMO2 = register(
    Family(
        model_type="olmo2",
        description="OLMo 2",
        config_defaults={"rms_norm_eps": 1e-5},
        config_overrides=SETTINGS,
        checkpoint_names=AFTER,
    )
)
