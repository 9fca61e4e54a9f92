"""How a graph keeps its matrices and multiplies by them: here as float32; `blockwise` has them rounded.

Shapes: N outputs, K inputs of a matrix, which checkpoints store as [N, K]; V vocabulary, D model width.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

from compressor.export.onnx.writer import GraphWriter


class Matrices(Protocol):
    """The matrices of one graph; each method adds its nodes to the writer that was given."""

    def product(self, value: str, name: str, weight_NK: torch.Tensor) -> str:
        """`value` times a matrix; the name of the result."""

    def embed(self, ids: str, name: str, weight_VD: torch.Tensor) -> str:
        """The rows of the embedding for tokens."""

    def logits(self, rows: str, output: str, name: str, weight_VD: torch.Tensor | None) -> None:
        """The head's product, as the graph's `output`. Without a weight it is the embedding's, shared."""

    def summary(self) -> dict[str, Any]:
        """What rounding did, as JSON; empty where there was none."""


class Plain:
    """Values as they are, float32."""

    def __init__(self, writer: GraphWriter) -> None:
        self._writer = writer
        self._embedding = ""

    def product(self, value: str, name: str, weight_NK: torch.Tensor) -> str:
        weight = self._writer.weight(f"{name}.weight", weight_NK.T)
        return self._writer.node("MatMul", [value, weight], [f"{name}.product"])

    def embed(self, ids: str, name: str, weight_VD: torch.Tensor) -> str:
        self._embedding = self._writer.weight(name, weight_VD)
        return self._writer.node("Gather", [self._embedding, ids], ["embedded"])

    def logits(self, rows: str, output: str, name: str, weight_VD: torch.Tensor | None) -> None:
        head = self._embedding if weight_VD is None else self._writer.weight(name, weight_VD)
        self._writer.node("Gemm", [rows, head], [output], transB=1)

    def summary(self) -> dict[str, Any]:
        return {}
