"""Qwen3 with an FFN of experts in every layer."""

from collections.abc import Mapping
from typing import Any

from lathe.artefact.errors import UserError
from lathe.compressor.model.families.base import Family, register
from lathe.compressor.model.families.windows import every_layer


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Qwen3-MoE's settings under our names. Layers that have one FFN for all tokens are not supported."""
    if config["decoder_sparse_step"] != 1 or config["mlp_only_layers"]:
        raise UserError("config.json has layers without experts, which is not supported for `qwen3_moe`")
    experts = config.get("num_experts", config.get("num_local_experts", 128))
    return {
        "experts": experts,
        "experts_per_token": config["num_experts_per_tok"],
        "normalised_shares": config["norm_topk_prob"],
        "intermediate_size": config["moe_intermediate_size"],
        "num_experts": experts,
        "num_local_experts": experts,
    }


QWEN3_MOE = register(
    Family(
        model_type="qwen3_moe",
        description="Qwen3-30B-A3B, Qwen3-235B-A22B, Qwen3-Coder",
        exported_type="lathe_moe",
        config_defaults={
            "num_key_value_heads": 4,
            "max_position_embeddings": 32768,
            "use_sliding_window": False,
            "sliding_window": 4096,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 768,
            "norm_topk_prob": False,
            "decoder_sparse_step": 1,
            "mlp_only_layers": (),
        },
        derived=_settings,
        config_overrides={"qk_norm": True, "mlp_bias": False},
        uses_sliding_window=every_layer,
        checkpoint_names={"mlp.router": "mlp.gate"},
        split_experts={
            f"mlp.{name}": f"mlp.experts.{{e}}.{name}" for name in ("gate_proj", "up_proj", "down_proj")
        },
    )
)
