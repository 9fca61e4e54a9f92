"""The amount of calibration text that a run reads: what was asked for, and what there was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lathe.artefact.errors import UserError

HELDOUT_SHARE = 8
LEAST = 1024
"""Tokens below which nothing sensible is measured: a usual window to fit on, and one to judge by."""


@dataclass(frozen=True)
class Part:
    """A text of a list: the windows that it has, and those of its share that are used."""

    name: str
    there: int
    used: int


@dataclass(frozen=True)
class Amount:
    """asked: tokens to fit on. window: tokens of one. parts: of the text, one after another."""

    asked: int
    window: int
    parts: tuple[Part, ...]

    @property
    def windows(self) -> int:
        return sum(part.used for part in self.parts)

    @property
    def heldout(self) -> int:
        """Windows that are not fitted on."""
        return int(held_out(self.windows).sum())

    @property
    def tokens(self) -> int:
        """The tokens that are fitted on."""
        return (self.windows - self.heldout) * self.window

    def check(self, text: str) -> None:
        """Refuses what is too little to measure anything.

        Raises:
            UserError: with what there is and what is needed.
        """
        for part in self.parts if len(self.parts) > 1 else ():
            if not part.there:
                raise UserError(
                    f"the calibration text {part.name} is shorter than one window of {self.window} tokens",
                    "Give more text, or leave it out.",
                )
        total = self.windows * self.window
        if self.windows < 2 or total < LEAST:
            raise UserError(
                f"the calibration text {text} fills {self.windows} windows of {self.window} tokens; at least "
                f"{LEAST:,} tokens are needed, some to fit on and some to judge by",
                "Give more text, or --calibration self: the model writes its own.",
            )

    def shortages(self, text: str, channels: int) -> Iterator[str]:
        """Yields warnings about too little text.

        Args:
            text: What the text is called in them.
            channels: The input channels of the widest projection, whose weights are fitted.
        """
        if self.windows < sum(heldout_windows(self.asked, self.window)):
            yield (
                f"the calibration text {text} has {self.tokens:,} tokens to fit on, besides "
                f"{self.heldout * self.window:,} that are held out, and {self.asked:,} were asked for: "
                "the result will be worse than with more text"
            )
        share = -(-self.windows // len(self.parts))
        for part in self.parts if len(self.parts) > 1 else ():
            if part.used < share and part.used == part.there:
                yield (
                    f"{part.name} has only {part.used * self.window:,} tokens in whole windows, less than an "
                    f"equal share ({share * self.window:,})"
                )
        if self.tokens < channels:
            yield (
                f"{self.tokens:,} tokens are fitted on, fewer than a projection has channels ({channels:,}): "
                "what its weights should become is not settled by so few"
            )

    def to_json(self) -> dict[str, Any]:
        return {
            "asked_tokens": self.asked,
            "tokens": self.tokens,
            "heldout_tokens": self.heldout * self.window,
            "window": self.window,
            "parts": [{"text": part.name, "tokens": part.used * self.window} for part in self.parts],
        }


def held_out(count: int) -> torch.Tensor:
    """Returns which of `count` windows are held out, [count] bool: every eighth, or the last."""
    held = torch.arange(count) % HELDOUT_SHARE == HELDOUT_SHARE - 1
    if count and not held.any():
        held[-1] = True
    return held


def heldout_windows(tokens: int, window: int) -> tuple[int, int]:
    """Returns how many windows are fitted on for so many tokens, and how many are held out."""
    fitted = max(2, -(-tokens // window))
    return fitted, -(-fitted // (HELDOUT_SHARE - 1))


def fair_shares(sizes: Sequence[int], wanted: int) -> list[int]:
    """Splits `wanted` evenly, no share above its size; larger ones make up for small ones."""
    shares = [0] * len(sizes)
    for done, index in enumerate(sorted(range(len(sizes)), key=sizes.__getitem__)):
        shares[index] = min(sizes[index], (wanted - sum(shares)) // (len(sizes) - done))
    return shares
