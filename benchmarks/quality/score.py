"""Scores of a subnet against its dense parent on held-out tokens, one code for all methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.quality.setting import Setting

_ROWS = 4


@dataclass(frozen=True)
class Score:
    """Means over predicted tokens: loss (nats), kl = KL(dense || subnet) over the whole vocabulary (nats),
    agreement = share of tokens whose likeliest successor is the dense model's."""

    loss: float
    kl: float
    agreement: float


@torch.inference_mode()
def score(
    setting: Setting, logprobs: Callable[[torch.Tensor], torch.Tensor], windows_BT: torch.Tensor
) -> Score:
    """logprobs: tokens [b, T] -> [b, T, V]. Every window is predicted from its second token on."""
    loss = kl = agreement = 0.0
    for tokens in windows_BT.split(_ROWS):
        dense = setting.head.logprobs(setting.hidden(setting.layers, tokens))[:, :-1]
        mine = logprobs(tokens)[:, :-1]
        loss -= float(mine.gather(-1, tokens[:, 1:, None]).sum())
        kl += float((dense.exp() * (dense - mine)).sum())
        agreement += float((dense.argmax(-1) == mine.argmax(-1)).sum())
    count = windows_BT[:, 1:].numel()
    return Score(loss / count, kl / count, agreement / count)
