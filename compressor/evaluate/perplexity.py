"""Perplexity, and agreement with the dense model, on token windows through transformers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from lathe.compressor.compute.device import CPU

_ROWS, _TOKENS = 4, 2048
_SLICE = 256


@dataclass(frozen=True)
class Quality:
    """The quality of a model on a text.

    Attributes:
        loss: The mean loss in nats per predicted token.
        tokens: The number of predicted tokens.
        kl: The mean KL(dense || model) in nats per token over the whole vocabulary; None without a dense
            model to compare with.
        agreement: The share of tokens whose likeliest successor is the dense model's; None likewise.
    """

    loss: float
    tokens: int
    kl: float | None = None
    agreement: float | None = None

    @property
    def perplexity(self) -> float:
        """e^loss."""
        return math.exp(min(self.loss, 700.0))


@torch.inference_mode()
def quality(
    model: Callable[..., Any],
    windows_BT: torch.Tensor,
    advance: Callable[[], None] = lambda: None,
    dense: Callable[..., Any] | None = None,
) -> Quality:
    """Scores a causal LM on windows, each predicted from its second token on."""
    loss = kl = agreement = 0.0
    rows = max(1, min(_ROWS, _TOKENS // windows_BT.shape[1]))
    for tokens in windows_BT.split(rows):
        logits, reference = _logits(model, tokens), _logits(dense, tokens) if dense else None
        for start in range(0, tokens.shape[1] - 1, _SLICE):
            at = slice(start, min(start + _SLICE, tokens.shape[1] - 1))
            mine = torch.log_softmax(logits[:, at].float(), -1)
            following = tokens[:, at.start + 1 : at.stop + 1, None].to(mine.device)
            loss -= float(mine.gather(-1, following).sum())
            if reference is not None:
                theirs = torch.log_softmax(reference[:, at].to(mine), -1)
                kl += float((theirs.exp() * (theirs - mine)).sum())
                agreement += float((theirs.argmax(-1) == mine.argmax(-1)).sum())
        advance()
    count = windows_BT[:, 1:].numel()
    if dense is None:
        return Quality(loss / count, count)
    return Quality(loss / count, count, kl / count, agreement / count)


def _logits(model: Callable[..., Any], tokens_BT: torch.Tensor) -> torch.Tensor:
    """Returns the logits [B, T, V] of a model that may be on a device."""
    there = tokens_BT.to(getattr(model, "device", CPU))
    found: torch.Tensor = model(input_ids=there, use_cache=False).logits
    return found
