"""Llama 1, 2, 3 and everything that loads as `llama` (Vicuna, TinyLlama, ...)."""

from lathe.compressor.model.families.base import Family, register

LLAMA = register(
    Family(model_type="llama", description="Llama 1, 2 and 3, Vicuna, TinyLlama, SmolLM 1 and 2, Yi")
)
