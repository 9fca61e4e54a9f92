"""Our runners, whose slots are the sequences of a batch, as rivals."""

from __future__ import annotations

from typing import Any

import numpy as np

from lathe.serving.scheduler.scheduler import PREFILL_CHUNK


class Slots:
    """Fills a runner's slots one after the other, in pieces as our scheduler does, and decodes them together.

    chosen: which engine it is, in words.
    """

    def __init__(self, runner: Any, streamed_bytes: int, chosen: str = "onnx") -> None:
        self.chosen = chosen
        self._runner, self.streamed_bytes = runner, streamed_bytes
        self.kv_bytes: int = runner.kv_bytes_per_token
        self._next = np.zeros(0, np.int64)

    def prefill(self, prompts: np.ndarray) -> np.ndarray:
        self._next = self.logits(prompts).argmax(-1)
        return self._next

    def decode(self) -> np.ndarray:
        self._next = self._runner.decode(self._next).argmax(-1)
        return self._next

    def logits(self, prompts: np.ndarray) -> np.ndarray:
        for slot in range(len(prompts)):
            self._runner.reset(slot)
        return np.concatenate([self._read(slot, row) for slot, row in enumerate(prompts)])

    def _read(self, slot: int, prompt: np.ndarray) -> np.ndarray:
        pieces = [prompt[start : start + PREFILL_CHUNK] for start in range(0, len(prompt), PREFILL_CHUNK)]
        return np.asarray([self._runner.prefill(slot, piece) for piece in pieces][-1])
