"""Qwen 2 and 2.5."""

from lathe.compressor.model.gguf.architectures.base import ATTENTION, FFN, NORMS, Architecture, architectures

QWEN2 = architectures.add("qwen2", Architecture("qwen2", "Qwen2ForCausalLM", {**ATTENTION, **FFN, **NORMS}))
