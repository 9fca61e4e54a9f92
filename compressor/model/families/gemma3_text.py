"""Gemma 3 without images: normalised queries and keys, and windows in five layers of six.

Layers with a window have rotary positions of their own.
"""

from collections.abc import Mapping
from typing import Any

from lathe.compressor.model.families.base import Family, register
from lathe.compressor.model.families.gemma2 import DEFAULTS, NORMS, SETTINGS, settings
from lathe.compressor.model.families.windows import all_but_every, ropes_by_window

_ropes = ropes_by_window("rope_local_base_freq")


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return settings(config) | _ropes(config)


GEMMA3 = register(
    Family(
        model_type="gemma3_text",
        description="Gemma 3 270M and 1B, the language models of others saved by themselves",
        exported_type="lathe_gemma",
        config_defaults={
            **DEFAULTS,
            "max_position_embeddings": 131072,
            "rope_theta": 1e6,
            "rope_local_base_freq": 1e4,
            "sliding_window_pattern": 6,
        },
        derived=_settings,
        config_overrides={**SETTINGS, "qk_norm": True},
        uses_sliding_window=lambda config, layer: all_but_every(int(config["sliding_window_pattern"]))(
            config, layer
        ),
        rope_types=("default", "linear"),
        checkpoint_names=NORMS,
    )
)
