"""SmolLM3: llama.cpp leaves rotary positions out of every fourth layer, whatever the file says."""

from typing import Any

from lathe.artefact.gguf.file import GgufModel
from lathe.compressor.model.gguf.architectures.base import ATTENTION, FFN, NORMS, Architecture, architectures

_EVERY = 4


def _settings(model: GgufModel) -> dict[str, Any]:
    layers = model.required(f"{model.architecture}.block_count", int)
    return {
        "no_rope_layer_interval": _EVERY,
        "no_rope_layers": [int((layer + 1) % _EVERY != 0) for layer in range(layers)],
        "use_sliding_window": False,
    }


SMOLLM3 = architectures.add(
    "smollm3",
    Architecture(
        "smollm3",
        "SmolLM3ForCausalLM",
        {**ATTENTION, **FFN, **NORMS},
        interleaved=True,
        biases=True,
        settings=_settings,
    ),
)
