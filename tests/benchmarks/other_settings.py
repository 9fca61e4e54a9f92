"""Settings on tiny Llamas of other kinds than the fixture's, and checks that several baselines share."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.quality.setting import Baseline, Setting
from lathe.compressor.model.block_runner import Weights

KINDS: dict[str, dict[str, Any]] = {
    "biased": {"attention_bias": True, "mlp_bias": True},
    "one head per group, tied": {"num_key_value_heads": 8, "tie_word_embeddings": True},
}


def is_deterministic(baseline: Baseline, setting: Setting, keep: float) -> bool:
    """The same logits twice, wherever torch's own generator stands."""
    torch.manual_seed(1)
    first = baseline(setting, keep).logprobs(setting.heldout)
    torch.manual_seed(2)
    return torch.equal(first, baseline(setting, keep).logprobs(setting.heldout))


def direct_kl(setting: Setting, layers: list[Weights], windows: torch.Tensor) -> float:
    """Mean KL(dense || subnet) over all positions and the whole vocabulary."""
    dense, mine = (
        setting.head.logprobs(setting.hidden(one, windows)).double() for one in (list(setting.layers), layers)
    )
    return float(torch.nn.functional.kl_div(mine, dense, log_target=True, reduction="none").sum(-1).mean())
