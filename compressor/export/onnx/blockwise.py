"""Matrices quantized to 8 or 4 bits, each group of inputs with a scale (`lathe.compressor.model.rounding`).

Embedding and head may have other bits than the layers' matrices.

Shapes: N outputs, K inputs, G groups of a row, V vocabulary, D model width, E experts, F channels of each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from lathe.compressor.export.onnx.matrices import Experts, Matrix
from lathe.compressor.export.onnx.writer import MICROSOFT, GraphWriter
from lathe.compressor.model.groups import BY_ERROR, GroupRule
from lathe.compressor.model.rounding import (
    PADDING,
    QuantizedMatrix,
    expert_groups,
    groups_for,
    quantize_matrix,
)

WHOLE_BITS = 8
_INT8_ACTIVATIONS = 4

Quantize = Callable[[torch.Tensor, int, Sequence[int]], QuantizedMatrix]
"""Quantizes a matrix [N, K], given the bits of a code and the groups to choose from, the largest first."""


def arbitrary(
    weight_NK: torch.Tensor, bits: int, groups: Sequence[int], rule: GroupRule = BY_ERROR
) -> QuantizedMatrix:
    """Returns codes of a matrix at once, for models of random weights, of which only speed is measured.

    The group is the one that normally distributed values get by a rule. No two matrices have the same
    codes: ONNX Runtime (1.32) keeps equal ones once, and a model of them would be timed from the processor's
    cache.
    """
    rows, columns = weight_NK.shape
    group = rule.group_of_random(weight_NK, bits, groups)
    half, fill = 2 ** (bits - 1), -columns % group
    scale = float(weight_NK.abs().max()) / half or 1.0
    codes = (weight_NK / scale).round_().clamp_(-half, half - 1).to(torch.int8)
    scales = torch.full((rows, (columns + fill) // group), scale)
    return QuantizedMatrix(torch.nn.functional.pad(codes, (0, fill)), scales, group, bits, columns, 0.0)


class Blockwise:
    """Quantizes matrices of layers to `bits`, embedding and head to `head_bits`.

    Those that are in codes already it stores as they are.

    ONNX Runtime's MatMulNBits quantizes activations to int8, every row by itself. No row depends on the rest
    of its batch, except for the order of sums, which is different for a single row.

    Attributes:
        errors: of every matrix so far (`QuantizedMatrix.error`).
    """

    def __init__(
        self,
        writer: GraphWriter,
        bits: int,
        quantize: Quantize = quantize_matrix,
        head_bits: int = WHOLE_BITS,
    ) -> None:
        self._writer, self._bits, self._quantize, self._head_bits = writer, bits, quantize, head_bits
        self._embedding: _Stored | None = None
        self._groups: Counter[int] = Counter()
        self.errors: list[float] = []

    def make_matmul(self, value: str, name: str, weight_NK: Matrix) -> str:
        return self._multiply(value, self._store(name, weight_NK, self._bits), f"{name}.product")

    def make_embedding(self, ids: str, name: str, weight_VD: Matrix) -> str:
        stored = self._embedding = self._store(name, weight_VD, self._head_bits, padding=0.0)
        return self._writer.node(
            "GatherBlockQuantized",
            [stored.codes, ids, stored.scales],
            ["embedded"],
            domain=MICROSOFT,
            bits=stored.bits,
            block_size=stored.group,
            gather_axis=0,
            quantize_axis=1,
        )

    def make_lm_head(self, rows: str, output: str, name: str, weight_VD: Matrix | None) -> None:
        if weight_VD is not None:
            self._multiply(rows, self._store(name, weight_VD, self._head_bits), output)
        elif self._embedding:
            self._multiply(rows, self._embedding, output)

    def make_moe(self, experts: Experts, name: str) -> str:
        """Adds ONNX Runtime's QMoE, whose two products share a group that divides their inputs.

        Experts are padded with channels of zeros. (Asked not to normalise routing weights, its CPU kernel
        applies a softmax to the chosen ones anyway, unless it is given the weights.)
        """
        normalised = experts.attributes["normalize_routing_weights"]
        shares = () if normalised else (self._writer.node("Softmax", [experts.logits], [f"{name}.shares"]),)
        count, _, width = experts.gate_up.shape
        channels, zeros = experts.down.shape[-1], torch.nn.functional.pad
        groups = expert_groups(width, channels)
        group = min(
            self._quantize(w.flatten(0, 1), self._bits, groups).group for w in (experts.gate_up, experts.down)
        )
        fill = -channels % group
        bias = None if experts.gate_up_bias is None else zeros(experts.gate_up_bias, (0, 2 * fill))
        inputs = [experts.value, experts.logits]
        for part, weight_ENK, bias_EN in (
            ("gate_up", zeros(experts.gate_up, (0, 0, 0, 2 * fill)), bias),
            ("down", zeros(experts.down, (0, fill)), experts.down_bias),
        ):
            found = self._quantize(weight_ENK.flatten(0, 1), self._bits, [group])
            self._note(found)
            dims = (count, len(weight_ENK[0]), -1)
            inputs += [
                self._writer.weight(f"{name}.{part}.codes", found.packed.view(dims)),
                self._writer.weight(f"{name}.{part}.scales", found.scales.view(dims)),
                "" if bias_EN is None else self._writer.weight(f"{name}.{part}.bias", bias_EN),
            ]
        return self._writer.node(
            "QMoE",
            [*inputs, *[""] * 6, *shares] if shares else inputs,
            [f"{name}.added"],
            domain=MICROSOFT,
            expert_weight_bits=self._bits,
            block_size=group,
            accuracy_level=_INT8_ACTIVATIONS,
            **experts.attributes,
        )

    def summary(self) -> dict[str, Any]:
        """Returns how many matrices have which group, and their errors (`QuantizedMatrix.error`)."""
        return {
            "scheme": f"int{self._bits}",
            "groups": {str(group): self._groups[group] for group in sorted(self._groups)},
            "relative_error": {"median": median(self.errors), "max": max(self.errors)},
        }

    def _store(self, name: str, weight_NK: Matrix, bits: int, padding: float = PADDING) -> _Stored:
        if isinstance(weight_NK, QuantizedMatrix):
            found = weight_NK
        else:
            found = self._quantize(weight_NK, bits, groups_for(weight_NK.shape[1], padding))
        self._note(found)
        codes = self._writer.weight(f"{name}.codes", found.packed)
        scales = self._writer.weight(f"{name}.scales", found.scales)
        return _Stored(codes, scales, len(found), found.columns, found.group, found.bits)

    def _note(self, found: QuantizedMatrix) -> None:
        self._groups[found.group] += 1
        self.errors.append(found.error)

    def _multiply(self, value: str, stored: _Stored, output: str) -> str:
        blob = stored.group * stored.bits // 8
        dims = (stored.rows, -(-stored.columns // stored.group), blob)
        blocks = self._writer.reshaped(f"{stored.codes}.blocks", stored.codes, dims)
        return self._writer.node(
            "MatMulNBits",
            [value, blocks, stored.scales],
            [output],
            domain=MICROSOFT,
            N=stored.rows,
            K=stored.columns,
            bits=stored.bits,
            block_size=stored.group,
            accuracy_level=_INT8_ACTIVATIONS,
        )


@dataclass(frozen=True)
class _Stored:
    """Names of codes [rows, bytes] and scales in the graph, and what a product with them has to know."""

    codes: str
    scales: str
    rows: int
    columns: int
    group: int
    bits: int
