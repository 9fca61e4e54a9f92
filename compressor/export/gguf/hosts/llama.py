"""Llama with even layers, and models that llama.cpp takes for one: Mistral, SmolLM 1 and 2, Phi-3."""

from lathe.compressor.export.gguf.features import (
    FFN_BIAS,
    NORM_BEFORE,
    OUTPUT_BIAS,
    QKV_BIAS,
    ROPE_LINEAR,
    ROPE_LLAMA3,
    ROPE_YARN,
    UNTIED,
)
from lathe.compressor.export.gguf.hosts.base import Host, hosts
from lathe.compressor.model.gguf.architectures.base import ATTENTION, FFN, NORMS

TAKES = frozenset({QKV_BIAS, OUTPUT_BIAS, FFN_BIAS, UNTIED, ROPE_LINEAR, ROPE_YARN, ROPE_LLAMA3})

LLAMA = hosts.add(
    "llama",
    Host(
        "llama",
        {**NORMS, **ATTENTION, **FFN},
        takes=TAKES,
        needs=frozenset({NORM_BEFORE}),
        interleaved=True,
    ),
)
