"""SmolLM3 with even layers: llama.cpp leaves rotary positions out of every fourth layer, in any case."""

from collections.abc import Iterator

from lathe.compressor.export.gguf.features import NORM_BEFORE, ROPE_LINEAR, ROPE_YARN, SOME_POSITIONS, UNTIED
from lathe.compressor.export.gguf.hosts.base import Host, hosts
from lathe.compressor.export.gguf.subnet import Subnet
from lathe.compressor.model.gguf.architectures.base import ATTENTION, FFN, NORMS

_EVERY = 4


def _odds(model: Subnet) -> Iterator[str]:
    listed = list(model.config.get("no_rope_layers") or [])
    if [bool(rotates) for rotates in listed] != [(i + 1) % _EVERY != 0 for i in range(len(listed))]:
        yield "layers without positions but every fourth"


SMOLLM3 = hosts.add(
    "smollm3",
    Host(
        "smollm3",
        {**NORMS, **ATTENTION, **FFN},
        takes=frozenset({UNTIED, ROPE_LINEAR, ROPE_YARN}),
        needs=frozenset({NORM_BEFORE, SOME_POSITIONS}),
        interleaved=True,
        odds=_odds,
    ),
)
