"""Scores of a subnet against its dense parent on held-out tokens, one code for all methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.quality.setting import Setting
from lathe.compressor.calibration import token_windows
from lathe.compressor.calibration.selfgen import write_samples
from lathe.compressor.calibration.tokens import SELF, spread, window_length
from lathe.compressor.latency.fingerprint import fingerprint
from lathe.compressor.pipeline.options import WINDOW

_ROWS = 4
_SCORED = 2**32
"""Seed of the samples that are scored on; calibration text has the seeds from 0."""


@dataclass(frozen=True)
class Score:
    """Means over predicted tokens.

    loss: in nats. kl: KL(dense || subnet) over the whole vocabulary, in nats. agreement: share of tokens
    whose likeliest successor is the dense model's. acceptance: share of the subnet's drafts
    that the dense model would accept, sampling: the sum of min(p, q).
    """

    loss: float
    kl: float
    agreement: float
    acceptance: float


@torch.inference_mode()
def score(
    setting: Setting, logprobs: Callable[[torch.Tensor], torch.Tensor], windows_BT: torch.Tensor
) -> Score:
    """logprobs: tokens [b, T] -> [b, T, V]. Every window is predicted from its second token on."""
    loss = kl = agreement = acceptance = 0.0
    for tokens in windows_BT.split(_ROWS):
        dense = setting.head.logprobs(setting.hidden(setting.layers, tokens))[:, :-1]
        mine = logprobs(tokens)[:, :-1]
        loss -= float(mine.gather(-1, tokens[:, 1:, None]).sum())
        kl += float((dense.exp() * (dense - mine)).sum())
        agreement += float((dense.argmax(-1) == mine.argmax(-1)).sum())
        acceptance += float(torch.minimum(dense, mine).exp().sum())
    count = windows_BT[:, 1:].numel()
    return Score(loss / count, kl / count, agreement / count, acceptance / count)


def windows_of(setting: Setting, text: str, count: int) -> torch.Tensor:
    """Tokens [count, T] to score on.

    They are from all over a text, or samples of the model that nothing was fitted on.
    """
    if text == SELF:
        length = window_length(setting.source, WINDOW)
        return write_samples(
            setting.source, windows=count, length=length, seed=_SCORED, progress=setting.progress
        )
    windows = token_windows(setting.source, text, WINDOW, setting.progress)
    if len(windows) < count:
        setting.progress.warn(f"{text} fills {len(windows)} windows; {count} were to be scored on")
    return spread(windows, count, seed=0)


def machine() -> dict[str, object]:
    """What the figures of a run were made on."""
    return fingerprint({"torch": torch.__version__}, torch.get_num_threads())
