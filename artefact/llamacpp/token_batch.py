"""A batch of tokens as llama.cpp takes it, over arrays of our own."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from lathe.artefact.llamacpp.library import llama_cpp


class TokenBatch:
    """Room for some tokens, each of one sequence: C sees the same memory."""

    def __init__(self, room: int) -> None:
        api = llama_cpp()
        self._tokens, self._positions, self._sequences = (np.zeros(room, np.int32) for _ in range(3))
        self._counts, self._wanted = np.ones(room, np.int32), np.zeros(room, np.int8)
        step = self._sequences.itemsize
        self._addresses = self._sequences.ctypes.data + step * np.arange(room, dtype=np.uint64)
        arrays: dict[str, np.ndarray] = {
            "token": self._tokens,
            "pos": self._positions,
            "n_seq_id": self._counts,
            "seq_id": self._addresses,
            "logits": self._wanted,
        }
        types = dict(api.llama_batch._fields_)
        fields = {name: ctypes.cast(array.ctypes.data, types[name]) for name, array in arrays.items()}
        self._batch = api.llama_batch(n_tokens=0, **fields)

    def fill(
        self, tokens: np.ndarray, positions: np.ndarray, sequences: np.ndarray | int, outputs: slice
    ) -> Any:
        """Returns the batch of some tokens, with logits wanted after those of `outputs`."""
        count = len(tokens)
        self._tokens[:count], self._positions[:count] = tokens, positions
        self._sequences[:count] = sequences
        self._wanted[:count] = 0
        self._wanted[:count][outputs] = 1
        self._batch.n_tokens = count
        return self._batch
