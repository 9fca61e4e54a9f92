"""Matrices in a graph and products with them: here as float32, in `blockwise` quantized.

Shapes: N outputs, K inputs of a matrix, which checkpoints store as [N, K]; V vocabulary, D model width;
E experts, F channels of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from lathe.compressor.export.onnx.writer import MICROSOFT, GraphWriter
from lathe.compressor.model.rounding import QuantizedMatrix

Matrix = torch.Tensor | QuantizedMatrix
"""Values, or codes and scales."""
QuantizedMatrices = Callable[[str], QuantizedMatrix | None]
"""Gives matrices that are in codes already, by name; None for others."""


def as_they_are(_name: str) -> QuantizedMatrix | None:
    """Gives no matrix in codes."""
    return None


def values_of(matrix: Matrix) -> torch.Tensor:
    """Returns the values of a matrix, dequantized where it is in codes."""
    return matrix.values if isinstance(matrix, QuantizedMatrix) else matrix


def stack_rows(parts: Sequence[Matrix]) -> Matrix:
    """Stacks matrices, all of which are in codes, or none."""
    if len(parts) == 1:
        return parts[0]
    quantized = [part for part in parts if isinstance(part, QuantizedMatrix)]
    return QuantizedMatrix.stacked(quantized) if quantized else torch.cat([values_of(part) for part in parts])


@dataclass(frozen=True)
class Experts:
    """The parts of an FFN of experts.

    Attributes:
        value: what it reads.
        logits: of its router, [tokens, E].
        gate_up: [E, 2F, D] rows of gate and up in turn, as the operators' CPU kernels read them.
        down: [E, D, F].
        gate_up_bias: [E, 2F], likewise, or none.
        down_bias: [E, D], or none.
        attributes: of the operator.
    """

    value: str
    logits: str
    gate_up: torch.Tensor
    down: torch.Tensor
    attributes: dict[str, Any]
    gate_up_bias: torch.Tensor | None = None
    down_bias: torch.Tensor | None = None


class Matrices(Protocol):
    """The matrices of one graph; each method adds its nodes to the writer that was given."""

    def make_matmul(self, value: str, name: str, weight_NK: Matrix) -> str:
        """Adds the product of `value` and a matrix, which may be in codes already; returns its name."""

    def make_embedding(self, ids: str, name: str, weight_VD: Matrix) -> str:
        """The rows of the embedding for tokens."""

    def make_lm_head(self, rows: str, output: str, name: str, weight_VD: Matrix | None) -> None:
        """The head's product, as the graph's `output`. Without a weight it is the embedding's, shared."""

    def make_moe(self, experts: Experts, name: str) -> str:
        """Adds an FFN of experts; returns the name of its output."""

    def summary(self) -> dict[str, Any]:
        """Returns the summary of the quantization, as JSON; empty without one."""


class Plain:
    """Values as they are, float32."""

    def __init__(self, writer: GraphWriter) -> None:
        self._writer = writer
        self._embedding = ""

    def make_matmul(self, value: str, name: str, weight_NK: Matrix) -> str:
        if self._writer.nested:
            weight = self._writer.weight(f"{name}.weight", values_of(weight_NK))
            product = [f"{name}.product"]
            return self._writer.node("FusedMatMul", [value, weight], product, domain=MICROSOFT, transB=1)
        weight = self._writer.weight(f"{name}.weight", values_of(weight_NK).T)
        return self._writer.node("MatMul", [value, weight], [f"{name}.product"])

    def make_embedding(self, ids: str, name: str, weight_VD: Matrix) -> str:
        self._embedding = self._writer.weight(name, values_of(weight_VD))
        return self._writer.node("Gather", [self._embedding, ids], ["embedded"])

    def make_lm_head(self, rows: str, output: str, name: str, weight_VD: Matrix | None) -> None:
        head = self._embedding if weight_VD is None else self._writer.weight(name, values_of(weight_VD))
        self._writer.node("Gemm", [rows, head], [output], transB=1)

    def make_moe(self, experts: Experts, name: str) -> str:
        parts = {
            "gate_up": experts.gate_up,
            "gate_up_bias": experts.gate_up_bias,
            "down": experts.down,
            "down_bias": experts.down_bias,
        }
        inputs = [experts.value, experts.logits]
        inputs += [
            "" if value is None else self._writer.weight(f"{name}.{part}", value)
            for part, value in parts.items()
        ]
        return self._writer.node("MoE", inputs, [f"{name}.added"], domain=MICROSOFT, **experts.attributes)

    def summary(self) -> dict[str, Any]:
        return {}
