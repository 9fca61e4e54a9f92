"""Qwen 3 with even layers, without experts."""

from lathe.compressor.export.gguf.features import NORM_BEFORE, QK_NORM, ROPE_LINEAR, ROPE_YARN, UNTIED
from lathe.compressor.export.gguf.hosts.base import Host, hosts
from lathe.compressor.model.gguf.architectures.base import ATTENTION, FFN, NORMS, QK_NORMS

QWEN3 = hosts.add(
    "qwen3",
    Host(
        "qwen3",
        {**NORMS, **ATTENTION, **QK_NORMS, **FFN},
        takes=frozenset({UNTIED, ROPE_LINEAR, ROPE_YARN}),
        needs=frozenset({NORM_BEFORE, QK_NORM}),
    ),
)
