"""An exported graph as a model to score, as it is served, quantization included."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lathe.artefact.onnx.graph_format import GRAPH
from lathe.compressor.evaluate.engine_model import EngineModel

if TYPE_CHECKING:
    from lathe.artefact.onnx.runner import OnnxRunner


class OnnxModel(EngineModel):
    """A graph on ONNX Runtime, with as many threads as PyTorch has."""

    def __init__(self, artefact: Path) -> None:
        super().__init__()
        self._graph = artefact / GRAPH

    def open(self, length: int) -> OnnxRunner:
        from lathe.artefact.onnx.runner import OnnxRunner

        return OnnxRunner(self._graph, max_batch=1, max_length=length, threads=torch.get_num_threads())
