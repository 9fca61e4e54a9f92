"""Llama 1, 2, 3 and everything that loads as `llama` (Vicuna, TinyLlama, ...)."""

from compressor.families.base import Family, register

LLAMA = register(Family(model_type="llama", exported_type="lathe_llama"))
