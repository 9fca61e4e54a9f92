"""A comparison's setting on a tiny random Llama of any kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.quality.setting import Setting
from lathe.compressor.compute.progress import Progress
from support.tiny_llama import VARIANTS
from support.tiny_problem import make_lab

KINDS: dict[str, dict[str, Any]] = {
    "grouped heads": {},
    "ungrouped heads, tied, biases": VARIANTS["biased"] | VARIANTS["tied"] | {"num_key_value_heads": 8},
}


def make_setting(directory: Path, **changes: Any) -> Setting:
    """`changes` are of the model's config."""
    lab = make_lab(directory, **changes)
    return Setting(
        lab.source,
        lab.runner,
        lab.head,
        lab.embedding,
        lab.layers,
        lab.windows[~lab.heldout],
        lab.windows[lab.heldout],
        lab.statistics,
        0,
        Progress(quiet=True),
    )
