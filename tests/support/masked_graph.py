"""A graph with a mask, called as onnxruntime-genai calls it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lathe.artefact.onnx.kv_cache import TYPES
from lathe.artefact.onnx.runner import open_session


class MaskedGraph:
    """Rows of a batch, padded on the right with a token that prompts do not end in."""

    def __init__(self, graph: Path, prompts: Sequence[np.ndarray], length: int) -> None:
        self._session, self._weights = open_session(graph, 1)
        self._names = [output.name for output in self._session.get_outputs()]
        self._caches = {
            value.name: np.zeros((len(prompts), value.shape[1], length, value.shape[3]), TYPES[value.type])
            for value in self._session.get_inputs()
            if value.name.startswith("past_key_values.")
        }
        self._mask = np.zeros((len(prompts), max(map(len, prompts))), np.int64)
        ids = np.zeros_like(self._mask)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)], self._mask[row, : len(prompt)] = prompt, 1
        self.logits = self._run(ids)

    def append(self, tokens: np.ndarray) -> np.ndarray:
        """Appends tokens [B, S] to all rows; several only to a row alone. Returns the logits [B, V]."""
        self._mask = np.concatenate([self._mask, np.ones_like(tokens)], axis=1)
        self.logits = self._run(tokens)
        return self.logits

    def greedy(self, count: int) -> list[list[int]]:
        """Returns the likeliest tokens of each row."""
        rows = [self.logits.argmax(1)]
        while len(rows) < count:
            rows.append(self.append(rows[-1][:, None]).argmax(1))
        return np.stack(rows, 1).tolist()

    def _run(self, ids: np.ndarray) -> np.ndarray:
        feeds = {"input_ids": ids, "attention_mask": self._mask, **self._caches}
        logits, *caches = self._session.run(self._names, feeds)
        self._caches = dict(zip(self._caches, caches, strict=True))
        assert logits.shape[:2] == (len(ids), 1)
        return np.asarray(logits[:, 0])
