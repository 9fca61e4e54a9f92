"""Perplexity, and agreement with the dense model, on token windows through transformers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

_ROWS = 4


@dataclass(frozen=True)
class Quality:
    """loss: mean nats per predicted token. tokens: how many were predicted. perplexity: e^loss."""

    loss: float
    tokens: int

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))


@torch.inference_mode()
def quality(
    model: Callable[..., Any], windows_BT: torch.Tensor, advance: Callable[[], None] = lambda: None
) -> Quality:
    """Loss of a causal LM on windows; each window is predicted from its second token on, without overlap."""
    total = 0.0
    for tokens in windows_BT.split(_ROWS):
        logits = model(input_ids=tokens, use_cache=False).logits[:, :-1].float()
        total += float(
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum")
        )
        advance()
    count = windows_BT[:, 1:].numel()
    return Quality(total / count, count)
