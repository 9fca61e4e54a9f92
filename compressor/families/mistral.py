"""Mistral without a sliding window, or with one that is as long as the longest context."""

from compressor.families.base import Family, register

MISTRAL = register(
    Family(
        model_type="mistral",
        covers="Mistral 7B v0.2 and v0.3, Mistral Nemo, Codestral 22B",
        defaults={"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096},
        settings={"attention_bias": False, "mlp_bias": False},
    )
)
