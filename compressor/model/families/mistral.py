"""Mistral: Llama, in some versions with a sliding window in every layer."""

from lathe.compressor.model.families.base import Family, register
from lathe.compressor.model.families.windows import every_layer

MISTRAL = register(
    Family(
        model_type="mistral",
        description="Mistral 7B, Mistral Nemo, Codestral 22B",
        config_defaults={"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096},
        config_overrides={"attention_bias": False, "mlp_bias": False},
        uses_sliding_window=every_layer,
    )
)
