"""Seed-OSS: a Llama whose query, key and value projections have biases."""

from collections.abc import Mapping
from typing import Any

from lathe.compressor.model.families import Family


def biases(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of our model that follow from a config; Llama's `attention_bias` is of all projections."""
    return {"qkv_bias": config["attention_bias"], "attention_bias": config["attention_out_bias"]}


SEED_OSS = Family(
    model_type="seed_oss",
    description="Seed-OSS",
    config_defaults={  # of transformers' SeedOssConfig, where they are not Llama's
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 524288,
        "attention_bias": True,
        "attention_out_bias": False,
    },
    derived=biases,
)
