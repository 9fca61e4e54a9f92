"""An exported graph as a model to score, as it is served, quantization included."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from lathe.artefact.onnx.graph_format import GRAPH

if TYPE_CHECKING:
    from lathe.artefact.onnx.runner import OnnxRunner


@dataclass(frozen=True)
class Logits:
    """The output of a model: logits [B, T, V]."""

    logits: torch.Tensor


class OnnxModel:
    """A graph on ONNX Runtime that is called like a causal LM of transformers."""

    def __init__(self, artefact: Path) -> None:
        self._graph = artefact / GRAPH
        self._runner: OnnxRunner | None = None

    def __call__(self, input_ids: torch.Tensor, use_cache: bool = False) -> Logits:  # noqa: ARG002
        """Returns the float32 logits [B, T, V] of tokens [B, T], computed row by row.

        Raises:
            UserError: the graph cannot be loaded, or T is more than its positions.
        """
        from lathe.artefact.onnx.runner import OnnxRunner

        length = input_ids.shape[1]
        if self._runner is None or self._runner.max_length < length:
            self._runner = OnnxRunner(self._graph, max_batch=1, max_length=length)
        rows = []
        for tokens in input_ids:
            self._runner.reset(0)
            rows.append(self._runner.prefill(0, tokens.numpy(), "all"))
        return Logits(torch.from_numpy(np.stack(rows)))
