"""Perplexity, and agreement with the dense model, on token windows.

Models that are compared with the dense one are scored side by side, batch by batch: it is run once for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lathe.compressor.compute.device import CPU
from lathe.compressor.evaluate.engine_model import EngineModel

_ROWS, _TOKENS = 4, 2048
_LOGIT_BYTES = 2**28
"""The most bytes of a batch's logits, unless one window has more."""
_SLICE_BYTES = 2**23
"""The bytes of logits that are normalised at a time: their temporaries stay in a processor's cache."""

Model = Callable[..., Any] | EngineModel
"""A causal LM as transformers calls it, or on an engine."""


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


def quality(
    model: Model, windows_BT: torch.Tensor, advance: Callable[[int], None] = lambda _windows: None
) -> Quality:
    """Scores a causal LM on windows, each predicted from its second token on."""
    return qualities([model], windows_BT, advance)[0]


@torch.inference_mode()
def qualities(
    models: Sequence[Model],
    windows_BT: torch.Tensor,
    advance: Callable[[int], None] = lambda _windows: None,
    dense: Model | None = None,
) -> list[Quality]:
    """Scores causal LMs on windows, each predicted from its second token on.

    Args:
        models: The models; the dense one may be among them.
        windows_BT: Tokens.
        advance: Is told of every batch of windows that a model, or dense, is done with.
        dense: The dense model to compare with.
    """
    sums = [_Sums() for _ in models]
    start, rows = 0, 1
    while start < len(windows_BT):
        tokens = windows_BT[start : start + rows]
        reference = _reference(dense, tokens) if dense else None
        if reference and dense not in models:
            advance(len(tokens))
        for model, found in zip(models, sums, strict=True):
            known = reference if model is dense else None
            vocabulary = found.add(_slices(model, tokens, known), tokens, reference)
            advance(len(tokens))
        start, rows = start + rows, _rows(windows_BT.shape[1], vocabulary)
    return [found.quality(windows_BT[:, 1:].numel(), dense is not None) for found in sums]


def _rows(length: int, vocabulary: int) -> int:
    """Returns the number of windows of a batch."""
    most = _LOGIT_BYTES // (4 * length * vocabulary)
    return max(1, min(_ROWS, _TOKENS // length, most))


class _Sums:
    """Sums over tokens of what `Quality` has the means of."""

    def __init__(self) -> None:
        self._loss = self._kl = 0.0
        self._agreement = 0

    def add(
        self, slices: Iterator[_Slice], tokens_BT: torch.Tensor, reference: Sequence[torch.Tensor] | None
    ) -> int:
        """Adds a batch; returns the size of the vocabulary."""
        for row, start, mine in slices:
            stop = min(start + len(mine), tokens_BT.shape[1] - 1)
            mine = mine[: stop - start]
            following = tokens_BT[row, start + 1 : stop + 1, None].to(mine.device)
            self._loss -= float(mine.gather(-1, following).sum())
            if reference is not None:
                theirs = reference[row][start:stop].to(mine)
                self._kl += float(torch.linalg.vecdot(theirs.exp(), theirs - mine).sum())
                self._agreement += int((theirs.argmax(-1) == mine.argmax(-1)).sum())
        return mine.shape[-1]

    def quality(self, count: int, compared: bool) -> Quality:
        """Returns the means over `count` tokens."""
        if not compared:
            return Quality(self._loss / count, count)
        return Quality(self._loss / count, count, self._kl / count, self._agreement / count)


_Slice = tuple[int, int, torch.Tensor]
"""A row, the position of a token there, and logits or log-probabilities [T, V] from that token on."""


def _slices(
    model: Model, tokens_BT: torch.Tensor, known: Sequence[torch.Tensor] | None = None
) -> Iterator[_Slice]:
    """Yields the log-probabilities after every token, a slice of a row at a time, unless they are known."""
    if known is not None:
        yield from _cut((row, 0, logprobs) for row, logprobs in enumerate(known))
        return
    for row, start, logits in _cut(_logits(model, tokens_BT)):
        yield row, start, torch.log_softmax(logits.float(), -1)


def _cut(parts: Iterable[_Slice]) -> Iterator[_Slice]:
    """Cuts values of many tokens into slices that fit in a processor's cache."""
    for row, start, values in parts:
        size = max(1, _SLICE_BYTES // (4 * values.shape[-1]))
        starts = range(start, start + len(values), size)
        yield from ((row, at, part) for at, part in zip(starts, values.split(size), strict=True))


def _reference(dense: Model, tokens_BT: torch.Tensor) -> list[torch.Tensor]:
    """Returns the dense model's log-probabilities, [T, V] of each row, in the place of its logits."""
    rows: list[list[torch.Tensor]] = [[] for _ in tokens_BT]
    for row, start, logits in _logits(dense, tokens_BT):
        for _, _, part in _cut([(row, start, logits)]):
            part.copy_(torch.log_softmax(part, -1))
        rows[row].append(logits)
    return [parts[0] if len(parts) == 1 else torch.cat(parts) for parts in rows]


def _logits(model: Model, tokens_BT: torch.Tensor) -> Iterator[_Slice]:
    """Yields a row, a position and the logits [T, V] from there on; the model may be on a device."""
    if isinstance(model, EngineModel):
        for row, tokens in enumerate(tokens_BT):
            yield from ((row, start, logits) for start, logits in model.chunks(tokens))
        return
    there = tokens_BT.to(getattr(model, "device", CPU))
    logits: torch.Tensor = model(input_ids=there, use_cache=False).logits
    yield from ((row, 0, logits[row]) for row in range(len(logits)))
