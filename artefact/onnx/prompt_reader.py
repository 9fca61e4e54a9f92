"""What reads prompts in place of ONNX Runtime, into the same KV cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np


class PromptReader(Protocol):
    """Reads pieces of prompts; slots hold the same afterwards as if ONNX Runtime had read them.

    Shapes: S new tokens, R wanted rows of logits, V vocabulary, K KV heads, M cache length, H head dim.
    """

    def takes(self, past: int, count: int) -> bool:
        """Returns whether it reads `count` tokens that follow `past` cached ones."""

    def read(
        self, tokens: np.ndarray, past: int, caches: Mapping[str, np.ndarray], wanted: np.ndarray
    ) -> np.ndarray:
        """Appends tokens to a slot.

        Args:
            tokens: int64 [S].
            past: how many tokens the slot has.
            caches: its keys and values, [1, K, M, H], by the name of the graph's input; written in place.
            wanted: of which tokens logits are returned, [R].

        Returns:
            Float32 logits [R, V].
        """
