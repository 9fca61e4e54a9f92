"""Mixtral: Mistral with an FFN of experts in every layer."""

from collections.abc import Mapping
from typing import Any

from lathe.compressor.model.families.base import Family, register
from lathe.compressor.model.families.windows import every_layer


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Mixtral's settings under our names."""
    return {
        "experts": config["num_local_experts"],
        "experts_per_token": config["num_experts_per_tok"],
        "num_local_experts": config["num_local_experts"],
    }


MIXTRAL = register(
    Family(
        model_type="mixtral",
        description="Mixtral 8x7B and 8x22B",
        exported_type="lathe_moe",
        config_defaults={
            "num_key_value_heads": 8,
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e6,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
        },
        derived=_settings,
        config_overrides={"attention_bias": False, "mlp_bias": False, "normalised_shares": True},
        uses_sliding_window=every_layer,
        checkpoint_names={"mlp.router": "block_sparse_moe.gate"},
        split_experts={
            "mlp.gate_proj": "block_sparse_moe.experts.{e}.w1",
            "mlp.up_proj": "block_sparse_moe.experts.{e}.w3",
            "mlp.down_proj": "block_sparse_moe.experts.{e}.w2",
        },
        name_aliases={".mlp.": ".block_sparse_moe."},
    )
)
