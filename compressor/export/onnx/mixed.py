"""Matrices in the formats of a plan, block by block: float32, or quantized to 8 or 4 bits.

Shapes: N outputs, K inputs of a matrix; V vocabulary, D model width.
"""

from __future__ import annotations

from collections import Counter
from statistics import median
from typing import Any

from lathe.artefact.plan import BlockKind, Plan
from lathe.compressor.export.onnx.blockwise import Blockwise, Quantize
from lathe.compressor.export.onnx.matrices import Experts, Matrices, Matrix, Plain
from lathe.compressor.export.onnx.writer import GraphWriter
from lathe.compressor.model.names import in_layer
from lathe.compressor.model.rounding import BITS, quantize_matrix

_ATTENTION = ("self_attn.", "qkv")
"""How the names of an attention block's matrices begin, behind the layer's prefix."""


class Mixed:
    """Stores the matrices of every block, and embedding and head, in the format that a plan gives them."""

    def __init__(self, writer: GraphWriter, plan: Plan, quantize: Quantize = quantize_matrix) -> None:
        self._plan = plan
        self._plain = Plain(writer)
        self._rounded = {bits: Blockwise(writer, bits, quantize, head_bits=bits) for bits in BITS}
        self._counts: Counter[int] = Counter()

    def make_matmul(self, value: str, name: str, weight_NK: Matrix) -> str:
        return self._of_block(name).make_matmul(value, name, weight_NK)

    def make_embedding(self, ids: str, name: str, weight_VD: Matrix) -> str:
        self._counts[self._plan.head_bits] += 1
        return self._format(self._plan.head_bits).make_embedding(ids, name, weight_VD)

    def make_lm_head(self, rows: str, output: str, name: str, weight_VD: Matrix | None) -> None:
        self._counts[self._plan.head_bits] += weight_VD is not None
        self._format(self._plan.head_bits).make_lm_head(rows, output, name, weight_VD)

    def make_moe(self, experts: Experts, name: str) -> str:
        return self._of_block(name).make_moe(experts, name)

    def summary(self) -> dict[str, Any]:
        """Returns how many matrices have which format, and of quantized ones the groups and errors.

        It is empty where none is quantized.
        """
        rounded = {bits: made for bits, made in self._rounded.items() if self._counts[bits]}
        if not rounded:
            return {}
        formats = {"float32": {"matrices": self._counts[0]}} if self._counts[0] else {}
        for bits, made in rounded.items():
            facts = made.summary()
            scheme = facts.pop("scheme")
            formats[scheme] = {"matrices": self._counts[bits], **facts}
        errors = [error for made in rounded.values() for error in made.errors]
        return {
            "scheme": "mixed",
            "formats": formats,
            "relative_error": {"median": median(errors), "max": max(errors)},
        }

    def _of_block(self, name: str) -> Matrices:
        """Returns the format of the block that a matrix belongs to."""
        index, module = in_layer(name)
        kind: BlockKind = "attention" if module.startswith(_ATTENTION) else "ffn"
        bits = self._plan[index].bits(kind)
        self._counts[bits] += 1
        return self._format(bits)

    def _format(self, bits: int) -> Matrices:
        return self._rounded[bits] if bits else self._plain
