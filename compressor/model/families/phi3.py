"""Phi-3 and Phi-4: their checkpoints hold q, k and v in one matrix, gate and up in another; ours do not."""

from lathe.compressor.model.families.base import Family, register
from lathe.compressor.model.families.windows import every_layer

PHI3 = register(
    Family(
        model_type="phi3",
        description="Phi-4 (14B), Phi-3 with contexts of 4k",
        config_defaults={"max_position_embeddings": 4096, "rms_norm_eps": 1e-5},
        config_overrides={"attention_bias": False, "mlp_bias": False},
        uses_sliding_window=every_layer,
        rope_types=("default",),
        partial_rotary=True,
        fused={
            "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
        },
    )
)
