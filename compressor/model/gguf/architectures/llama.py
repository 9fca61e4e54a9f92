"""Llama, and models that llama.cpp takes for one: Mistral, SmolLM 1 and 2, Yi."""

from lathe.compressor.model.gguf.architectures.base import ATTENTION, FFN, NORMS, Architecture, architectures

LLAMA = architectures.add(
    "llama",
    Architecture("llama", "LlamaForCausalLM", {**ATTENTION, **FFN, **NORMS}, interleaved=True, biases=True),
)
