"""OLMo 2 with even layers: norms follow the blocks."""

from lathe.compressor.export.gguf.features import NORM_AFTER, ROPE_LINEAR, ROPE_YARN, UNTIED, WHOLE_QK_NORM
from lathe.compressor.export.gguf.hosts.base import Host, hosts
from lathe.compressor.export.gguf.hosts.qwen2 import narrow_heads
from lathe.compressor.model.gguf.architectures.base import ATTENTION, FFN, QK_NORMS

_NORMS = {"post_attention_norm": "attention_output_norm", "post_ffw_norm": "ffn_output_norm"}

OLMO2 = hosts.add(
    "olmo2",
    Host(
        "olmo2",
        {**ATTENTION, **QK_NORMS, **_NORMS, **FFN},
        takes=frozenset({ROPE_LINEAR, ROPE_YARN}),
        needs=frozenset({NORM_AFTER, WHOLE_QK_NORM, UNTIED}),
        odds=narrow_heads,
    ),
)
