"""An exported graph as a model to score, as it is served, quantization included."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lathe.artefact.onnx.graph_format import GRAPH

if TYPE_CHECKING:
    from lathe.artefact.onnx.runner import OnnxRunner

_CHUNK = 256
"""Tokens per call: logits of all of them stay small, and attention does not compute what it masks."""


class OnnxModel:
    """A graph on ONNX Runtime, with as many threads as PyTorch has.

    They do not spin: PyTorch's threads take turns with them.
    """

    def __init__(self, artefact: Path) -> None:
        self._graph = artefact / GRAPH
        self._runner: OnnxRunner | None = None

    def chunks(self, tokens_T: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """Yields a position and the float32 logits [t, V] after the tokens from there on, until the last.

        Raises:
            UserError: the graph cannot be loaded, or T is more than its positions.
        """
        from lathe.artefact.onnx.runner import OnnxRunner

        length = len(tokens_T)
        if self._runner is None or self._runner.max_length < length:
            self._runner = OnnxRunner(
                self._graph, max_batch=1, max_length=length, threads=torch.get_num_threads(), spin=False
            )
        self._runner.reset(0)
        for start in range(0, length, _CHUNK):
            part = tokens_T[start : start + _CHUNK].numpy()
            yield start, torch.from_numpy(self._runner.prefill(0, part, "all"))
