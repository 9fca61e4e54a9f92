"""Qwen3: queries and keys are normalised head by head."""

from lathe.compressor.model.families.base import Family, register
from lathe.compressor.model.families.windows import upper_layers

QWEN3 = register(
    Family(
        model_type="qwen3",
        description="Qwen3 (dense)",
        config_defaults={
            "num_key_value_heads": 32,
            "head_dim": 128,
            "max_position_embeddings": 32768,
            "use_sliding_window": False,
            "sliding_window": 4096,
            "max_window_layers": 28,
        },
        config_overrides={"qk_norm": True, "mlp_bias": False},
        uses_sliding_window=upper_layers,
    )
)
