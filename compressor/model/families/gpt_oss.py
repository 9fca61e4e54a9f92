"""gpt-oss: experts with biases and bounded gates, attention sinks, a window in every other layer."""

from collections.abc import Mapping
from typing import Any

from lathe.compressor.model.families.base import Family, register
from lathe.compressor.model.families.experts import Stack
from lathe.compressor.model.families.windows import all_but_every

_YARN = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """gpt-oss's settings under our names."""
    experts = config.get("num_local_experts", config.get("num_experts", 128))
    rope = config.get("rope_parameters") or config.get("rope_scaling") or _YARN
    return {
        "experts": experts,
        "experts_per_token": config["num_experts_per_tok"],
        "num_experts": experts,
        "num_local_experts": experts,
        "rope_parameters": {"rope_theta": config["rope_theta"], **rope},
        "rope_scaling": None,
        "swiglu_alpha": config["swiglu_alpha"],
        "swiglu_limit": config["swiglu_limit"],
    }


GPT_OSS = register(
    Family(
        model_type="gpt_oss",
        description="gpt-oss-20b and gpt-oss-120b",
        exported_type="lathe_gpt_oss",
        config_defaults={
            "num_key_value_heads": 8,
            "head_dim": 64,
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5,
            "rope_theta": 150000.0,
            "num_experts_per_tok": 4,
            "sliding_window": 128,
            "attention_bias": True,
            "swiglu_alpha": 1.702,
            "swiglu_limit": 7.0,
        },
        derived=_settings,
        config_overrides={
            "attention_sinks": True,
            "router_bias": True,
            "mlp_bias": True,
            "normalised_shares": True,
        },
        uses_sliding_window=all_but_every(2),
        stacked={
            "mlp.gate_proj.weight": Stack("mlp.experts.gate_up_proj", every=2),
            "mlp.gate_proj.bias": Stack("mlp.experts.gate_up_proj_bias", every=2, matrix=False),
            "mlp.up_proj.weight": Stack("mlp.experts.gate_up_proj", first=1, every=2),
            "mlp.up_proj.bias": Stack("mlp.experts.gate_up_proj_bias", first=1, every=2, matrix=False),
            "mlp.down_proj.weight": Stack("mlp.experts.down_proj", axis=1),
            "mlp.share_proj.weight": Stack("mlp.experts.down_proj_bias", axis=1, matrix=False),
        },
    )
)
