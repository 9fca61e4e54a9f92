"""Qwen 2 and 2.5 with even layers."""

from collections.abc import Iterator

from lathe.compressor.export.gguf.features import (
    NORM_BEFORE,
    QKV_BIAS,
    ROPE_LINEAR,
    ROPE_YARN,
    UNTIED,
)
from lathe.compressor.export.gguf.hosts.base import Host, hosts
from lathe.compressor.export.gguf.subnet import Subnet
from lathe.compressor.model.gguf.architectures.base import ATTENTION, FFN, NORMS


def narrow_heads(model: Subnet) -> Iterator[str]:
    """Yields what is odd where all heads together are not as wide as the model, which the loader assumes."""
    if model.plan[0].query_heads * model.shape.head_dim != model.shape.hidden_size:
        yield "heads that together are narrower or wider than the model"


QWEN2 = hosts.add(
    "qwen2",
    Host(
        "qwen2",
        {**NORMS, **ATTENTION, **FFN},
        takes=frozenset({UNTIED, ROPE_LINEAR, ROPE_YARN}),
        needs=frozenset({NORM_BEFORE, QKV_BIAS}),
        odds=narrow_heads,
    ),
)
