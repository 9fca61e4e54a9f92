"""OLMo 2: norms follow the blocks."""

from lathe.compressor.model.gguf.architectures.base import (
    ATTENTION,
    FFN,
    QK_NORMS,
    Architecture,
    architectures,
)

_NORMS = {"post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}

OLMO2 = architectures.add(
    "olmo2", Architecture("olmo2", "Olmo2ForCausalLM", {**ATTENTION, **FFN, **QK_NORMS, **_NORMS})
)
