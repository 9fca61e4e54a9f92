"""`deci`, of Nemotron: the host of uneven Llama, Mistral, SmolLM 1 and 2, Phi-3 without rotated parts, Qwen2.

It reads the heads and the FFN width of every layer. The loader takes head sizes from layer 0, which has to
have attention. A layer with attention and without FFN loses its attention, without a message.
"""

from lathe.compressor.export.gguf.features import NORM_BEFORE
from lathe.compressor.export.gguf.hosts.base import Host, hosts
from lathe.compressor.export.gguf.hosts.llama import TAKES
from lathe.compressor.model.gguf.architectures.base import ATTENTION, FFN, NORMS

DECI = hosts.add(
    "deci",
    Host(
        "deci",
        {**NORMS, **ATTENTION, **FFN},
        takes=TAKES,
        needs=frozenset({NORM_BEFORE}),
        uneven=True,
        attention_free=True,
        interleaved=True,
    ),
)
