"""Settings on tiny Llamas of other kinds than the fixture's, and what every baseline is checked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tiny_problem import make_lab

from benchmarks.quality.setting import Baseline, Setting
from compressor.progress import Progress

KINDS: dict[str, dict[str, Any]] = {
    "biased": {"attention_bias": True, "mlp_bias": True},
    "one head per group, tied": {"num_key_value_heads": 8, "tie_word_embeddings": True},
}


def make_setting(directory: Path, **changes: Any) -> Setting:
    lab = make_lab(directory, **changes)
    return Setting(
        lab.source, lab.runner, lab.head, lab.embedding, lab.layers, lab.windows[~lab.heldout],
        lab.windows[lab.heldout], lab.statistics, 0, Progress(quiet=True),
    )  # fmt: skip


def is_deterministic(baseline: Baseline, setting: Setting, keep: float) -> bool:
    """The same logits twice, wherever torch's own generator stands."""
    torch.manual_seed(1)
    first = baseline(setting, keep).logprobs(setting.heldout)
    torch.manual_seed(2)
    return torch.equal(first, baseline(setting, keep).logprobs(setting.heldout))


def follows_seed(baseline: Baseline, setting: Setting, keep: float) -> bool:
    """Whether some of ten seeds gives other logits."""
    first = baseline(setting, keep).logprobs(setting.heldout)
    return any(
        not torch.equal(first, baseline(replace(setting, seed=s), keep).logprobs(setting.heldout))
        for s in range(1, 10)
    )
