"""Qwen 3, without experts."""

from lathe.compressor.model.gguf.architectures.base import (
    ATTENTION,
    FFN,
    NORMS,
    QK_NORMS,
    Architecture,
    architectures,
)

QWEN3 = architectures.add(
    "qwen3",
    Architecture("qwen3", "Qwen3ForCausalLM", {**ATTENTION, **FFN, **NORMS, **QK_NORMS}, biases=True),
)
