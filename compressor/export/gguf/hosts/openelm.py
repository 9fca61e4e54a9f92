"""`openelm`: the host of uneven Qwen3 with tied embeddings.

It reads the heads and the FFN width of every layer, which all need both blocks. Its head is the embedding.
"""

from lathe.compressor.export.gguf.features import NORM_BEFORE, QK_NORM, ROPE_LINEAR, ROPE_YARN
from lathe.compressor.export.gguf.hosts.base import Host, hosts
from lathe.compressor.model.gguf.architectures.base import ATTENTION, FFN, NORMS, QK_NORMS

OPENELM = hosts.add(
    "openelm",
    Host(
        "openelm",
        {**NORMS, **ATTENTION, **QK_NORMS, **FFN},
        takes=frozenset({ROPE_LINEAR, ROPE_YARN}),
        needs=frozenset({NORM_BEFORE, QK_NORM}),
        uneven=True,
        fused=True,
    ),
)
