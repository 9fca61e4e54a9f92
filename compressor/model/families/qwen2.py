"""Qwen2 and Qwen2.5: Llama with biases of q, k and v only."""

from lathe.compressor.model.families.base import Family, register
from lathe.compressor.model.families.windows import upper_layers

QWEN2 = register(
    Family(
        model_type="qwen2",
        description="Qwen2, Qwen2.5, DeepSeek-R1-Distill-Qwen",
        config_defaults={
            "num_key_value_heads": 32,
            "max_position_embeddings": 32768,
            "use_sliding_window": False,
            "sliding_window": 4096,
            "max_window_layers": 28,
        },
        config_overrides={"attention_bias": False, "qkv_bias": True, "mlp_bias": False},
        uses_sliding_window=upper_layers,
    )
)
