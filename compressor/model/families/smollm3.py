"""SmolLM3: one layer in four has no positions."""

from collections.abc import Mapping
from typing import Any

from lathe.compressor.model.families.base import Family, register


def _positions(config: Mapping[str, Any]) -> dict[str, Any]:
    """Derives the list of layers with positions as transformers does, if a config.json has none."""
    listed, interval = config.get("no_rope_layers"), int(config["no_rope_layer_interval"])
    if listed is None:
        listed = [int((i + 1) % interval != 0) for i in range(int(config["num_hidden_layers"]))]
    return {"no_rope_layers": listed}


SMOLLM3 = register(
    Family(
        model_type="smollm3",
        description="SmolLM3",
        config_defaults={
            "num_key_value_heads": 4,
            "max_position_embeddings": 32768,
            "rope_theta": 2e6,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "no_rope_layer_interval": 4,
        },
        derived=_positions,
    )
)
