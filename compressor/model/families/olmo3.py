"""OLMo 3: OLMo 2 with sliding windows in three layers of four, whose rotary positions are not scaled."""

from lathe.compressor.model.families.base import Family, register
from lathe.compressor.model.families.olmo2 import AFTER, SETTINGS
from lathe.compressor.model.families.windows import all_but_every, ropes_by_window

OLMO3 = register(
    Family(
        model_type="olmo3",
        description="OLMo 3",
        config_defaults={
            "rms_norm_eps": 1e-5,
            "rope_theta": 5e5,
            "window_rope_theta": 5e5,
            "sliding_window": 4096,
        },
        derived=ropes_by_window("window_rope_theta"),
        config_overrides=SETTINGS,
        uses_sliding_window=all_but_every(4),
        checkpoint_names=AFTER,
    )
)
