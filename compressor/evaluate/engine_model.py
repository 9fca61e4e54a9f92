"""A model that an engine runs, to score as it is served."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Literal, Protocol

import numpy as np
import torch

CHUNK = 256
"""Tokens per call: logits of all of them stay small, and attention does not compute what it masks."""


class Runner(Protocol):
    """What an engine's runner of one slot offers here: a part of the server's `SlotEngine`."""

    max_length: int

    def reset(self, slot: int) -> None:
        """Empties a slot."""

    def prefill(self, slot: int, tokens: np.ndarray, logits: Literal["last", "all"] = "last") -> np.ndarray:
        """Appends tokens [S] to a slot; returns their float32 logits [S, V]."""


class EngineModel(ABC):
    """A model on an engine, which is opened for windows as long as they come."""

    def __init__(self) -> None:
        self._runner: Runner | None = None

    @abstractmethod
    def open(self, length: int) -> Runner:
        """Returns a runner of one slot of so many tokens.

        Raises:
            UserError: the model cannot be loaded, or has fewer positions.
        """

    def chunks(self, tokens_T: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """Yields a position and the float32 logits [t, V] after the tokens from there on, until the last.

        Raises:
            UserError: as `open`.
        """
        length = len(tokens_T)
        if self._runner is None or self._runner.max_length < length:
            self._runner = None
            self._runner = self.open(length)
        self._runner.reset(0)
        for start in range(0, length, CHUNK):
            part = tokens_T[start : start + CHUNK].numpy()
            yield start, torch.from_numpy(self._runner.prefill(0, part, "all"))
