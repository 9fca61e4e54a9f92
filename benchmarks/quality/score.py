"""Scores of a subnet against its dense parent on held-out tokens, one code for all methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.quality.setting import Setting
from lathe.artefact.fingerprint import fingerprint
from lathe.compressor.calibration import token_windows
from lathe.compressor.calibration.selfgen import write_samples
from lathe.compressor.calibration.tokens import SELF, spread, window_length
from lathe.compressor.evaluate import Quality
from lathe.compressor.model.lm_head import LMHead
from lathe.compressor.pipeline.option_values import WINDOW

_ROWS = 4
_SLICE_BYTES = 2**26
"""Of logits that are compared at a time."""
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


class Judge:
    """Scores subnets on one text; the dense model runs on it once, and only its last states are kept."""

    def __init__(self, setting: Setting, windows_BT: torch.Tensor) -> None:
        self._head, self._windows = setting.head, windows_BT
        self._dense = setting.hidden(setting.layers, windows_BT)
        self.dense_loss = mean_loss(setting.head, windows_BT, self._dense)

    @torch.inference_mode()
    def score(self, hidden: Callable[[torch.Tensor], torch.Tensor]) -> Score:
        """hidden: tokens [b, T] -> the head's input. Every window is predicted from its second token on."""
        loss = kl = agreement = acceptance = 0.0
        for tokens, states in zip(self._windows.split(_ROWS), self._dense.split(_ROWS), strict=True):
            pairs = zip(slices(self._head, states), slices(self._head, hidden(tokens)), strict=True)
            following = tokens[:, 1:].reshape(-1)
            for dense, mine in pairs:
                at, following = following[: len(mine)], following[len(mine) :]
                loss -= float(mine.gather(-1, at[:, None]).sum())
                kl += float(torch.linalg.vecdot(dense.exp(), dense - mine).sum())
                agreement += float((dense.argmax(-1) == mine.argmax(-1)).sum())
                acceptance += float(torch.minimum(dense, mine).exp_().sum())
        count = self._windows[:, 1:].numel()
        return Score(loss / count, kl / count, agreement / count, acceptance / count)


def judges_of(setting: Setting, texts: str, windows: int) -> dict[str, Judge]:
    """Returns a judge for each of some texts, which commas divide, by name."""
    return {name: Judge(setting, windows_of(setting, name, windows)) for name in texts.split(",")}


def score_rows(
    judges: dict[str, Judge], hidden: Callable[[torch.Tensor], torch.Tensor], facts: dict[str, Any]
) -> list[dict[str, Any]]:
    """Returns a row for each text: the facts of a subnet, and its scores beside the dense model's.

    hidden: as `Judge.score` takes it.
    """
    rows = []
    for name, judge in judges.items():
        scores = judge.score(hidden)
        rows.append(
            {
                **facts,
                "text": Path(name).name,
                "perplexity": Quality(scores.loss, 1).perplexity,
                "increase": scores.loss - judge.dense_loss,
                **asdict(scores),
                "dense_loss": judge.dense_loss,
            }
        )
    return rows


@torch.inference_mode()
def mean_loss(head: LMHead, windows_BT: torch.Tensor, hidden_BTD: torch.Tensor) -> float:
    """Nats per predicted token; little memory, however many tokens there are to choose from."""
    total, following = 0.0, windows_BT[:, 1:].reshape(-1)
    for part in slices(head, hidden_BTD):
        at, following = following[: len(part)], following[len(part) :]
        total -= float(part.gather(-1, at[:, None]).sum())
    return total / windows_BT[:, 1:].numel()


def slices(head: LMHead, hidden_BTD: torch.Tensor) -> Iterator[torch.Tensor]:
    """Log-probabilities [n, V] of the successors, a few tokens at a time; windows' last have none."""
    return logprobs_in_slices(head, hidden_BTD[:, :-1].flatten(0, 1))


def logprobs_in_slices(head: LMHead, states_ND: torch.Tensor) -> Iterator[torch.Tensor]:
    """Log-probabilities [n, V], a few states at a time."""
    start, count = 0, 1
    while start < len(states_ND):
        part = head.logprobs(states_ND[None, start : start + count])[0]
        yield part
        start, count = start + len(part), max(1, _SLICE_BYTES // (4 * part.shape[-1]))


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
