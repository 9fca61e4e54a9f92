"""A prompt reader that is a second runner: what another library would compute, by ONNX Runtime itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lathe.artefact.onnx.runner import OnnxRunner


class OtherReader:
    """Reads pieces in slot 0 of its own runner, over copies of the caches, and adds `bias` to the logits."""

    def __init__(self, graph: Path, length: int, bias: float = 0.0) -> None:
        self.runner = OnnxRunner(graph, max_batch=1, max_length=length, threads=1)
        self.least, self.bias = 1, bias
        self.read_counts: list[int] = []

    def takes(self, past: int, count: int) -> bool:
        return count >= self.least

    def read(
        self, tokens: np.ndarray, past: int, caches: Mapping[str, np.ndarray], wanted: np.ndarray
    ) -> np.ndarray:
        stop = past + len(tokens)
        self.read_counts.append(len(tokens))
        self.runner.reset(0)
        self.runner.append_kv(0, (0, past, [array[0, :, :past].copy() for array in caches.values()]))
        logits = self.runner.prefill(0, tokens, "all")[wanted]
        _, _, parts = self.runner.copy_kv(0, past, stop)
        for array, part in zip(caches.values(), parts, strict=True):
            array[0, :, past:stop] = part
        return logits + self.bias * (np.arange(logits.shape[1]) % 2)
