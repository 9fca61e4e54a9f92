"""Matrices rounded to 8 or 4 bits, each group of inputs with a scale: weight-only quantization.

A large group is fast and small. Every matrix has the largest group with which our rounding moves it no more
than plain rounding in groups of 32 would: groups are chosen by what they cost each matrix (the idea of
FineQuant, arXiv 2308.09723, Sec. 3), and no matrix is worse than the usual format has it. Embedding and head
have 8 bits in any case.

Shapes: N outputs, K inputs, G groups of a row, V vocabulary, D model width, E experts, F channels of each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch

from lathe.compressor.export.onnx.matrices import Experts
from lathe.compressor.export.onnx.writer import MICROSOFT, GraphWriter
from lathe.compressor.model.rounding import relative_error, round_matrix

BITS = (8, 4)
GROUPS = (256, 128, 64, 32)
"""Inputs that may share a scale: those of ONNX Runtime's kernels that are fast, the fastest first."""
_NEGLIGIBLE = 0.01
_WASTE = 0.03
WHOLE_BITS = 8
_INT8_ACTIVATIONS = 4


@dataclass(frozen=True)
class Rounded:
    """A matrix as codes, int8 [N, G * group], the last group filled up with zeros, times scales, float32
    [N, G]. columns: K. error: norm of the difference over norm of the matrix.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    group: int
    bits: int
    columns: int
    error: float

    @property
    def packed(self) -> torch.Tensor:
        """uint8 [N, G * group * bits / 8]: unsigned codes, of 4 bits the first in the lower half."""
        raised = (self.codes.int() + 2 ** (self.bits - 1)).to(torch.uint8)
        return raised if self.bits == 8 else raised[:, ::2] | (raised[:, 1::2] << 4)


Rounding = Callable[[torch.Tensor, int, Sequence[int]], Rounded]
"""From a matrix [N, K], the bits of a code, and the groups to choose from, the largest first."""


def groups_for(columns: int, waste: float = _WASTE) -> list[int]:
    """Those groups that need no more filling up than a share `waste`; the smallest in any case."""
    return [g for g in GROUPS if g == GROUPS[-1] or -columns % g <= waste * columns]


def fitted(weight_NK: torch.Tensor, bits: int, groups: Sequence[int]) -> Rounded:
    """With the largest group that moves the matrix by 1 % at most, or no more than plain rounding in groups
    of 32.
    """
    rounded = partial(_rounded, weight_NK, bits)
    allowed = max(_NEGLIGIBLE, rounded(GROUPS[-1], clip=False, signed=False).error)
    for group in groups[:-1]:
        if (found := rounded(group)).error <= allowed:
            return found
    return rounded(groups[-1])


def arbitrary(weight_NK: torch.Tensor, bits: int, groups: Sequence[int]) -> Rounded:
    """With codes that mean nothing, at once: for models of random weights, of which only speed is asked.
    The group is the one that normally distributed values get.
    """
    rows, columns = weight_NK.shape
    group = next(group for group in groups if bits == 8 or group <= 128)
    scales = torch.full((rows, -(-columns // group)), 4e-3)
    codes = (torch.arange(16, dtype=torch.int8) * 7 % 16 - 8).repeat(rows, scales.shape[1] * group // 16)
    return Rounded(codes, scales, group, bits, columns, 0.0)


def _rounded(
    weight_NK: torch.Tensor, bits: int, group: int, clip: bool = True, signed: bool = True
) -> Rounded:
    columns = weight_NK.shape[1]
    padded = torch.nn.functional.pad(weight_NK.float(), (0, -columns % group))
    codes, scales = round_matrix(padded, bits, group, clip=clip, signed=signed)
    return Rounded(codes, scales, group, bits, columns, relative_error(padded, codes, scales))


class Blockwise:
    """Matrices of layers in `bits`, embedding and head in 8. ONNX Runtime's MatMulNBits rounds what it
    multiplies by to int8, every row by itself: no row depends on who shares its batch, but for the order of
    sums, which is another one for a single row.
    """

    def __init__(self, writer: GraphWriter, bits: int, rounding: Rounding = fitted) -> None:
        self._writer, self._bits, self._rounding = writer, bits, rounding
        self._embedding: _Stored | None = None
        self._groups: Counter[int] = Counter()
        self._errors: list[float] = []

    def product(self, value: str, name: str, weight_NK: torch.Tensor) -> str:
        return self._multiply(value, self._store(name, weight_NK, self._bits, _WASTE), f"{name}.product")

    def embed(self, ids: str, name: str, weight_VD: torch.Tensor) -> str:
        stored = self._embedding = self._store(name, weight_VD, WHOLE_BITS, 0)
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

    def logits(self, rows: str, output: str, name: str, weight_VD: torch.Tensor | None) -> None:
        if weight_VD is not None:
            self._multiply(rows, self._store(name, weight_VD, WHOLE_BITS, _WASTE), output)
        elif self._embedding:
            self._multiply(rows, self._embedding, output)

    def experts(self, experts: Experts, name: str) -> str:
        """ONNX Runtime's QMoE, whose two products share a group that divides their inputs: experts are filled
        up with channels of zeros. (Asked not to normalise what experts count, its CPU kernel makes a softmax
        of the chosen ones anyway, unless it is given what they count.)
        """
        normalised = experts.attributes["normalize_routing_weights"]
        shares = () if normalised else (self._writer.node("Softmax", [experts.logits], [f"{name}.shares"]),)
        count, _, width = experts.gate_up.shape
        channels, zeros = experts.down.shape[-1], torch.nn.functional.pad
        groups = [group for group in groups_for(channels) if width % group == 0]
        group = min(
            self._rounding(w.flatten(0, 1), self._bits, groups).group for w in (experts.gate_up, experts.down)
        )
        fill = -channels % group
        bias = None if experts.gate_up_bias is None else zeros(experts.gate_up_bias, (0, 2 * fill))
        inputs = [experts.value, experts.logits]
        for part, weight_ENK, bias_EN in (
            ("gate_up", zeros(experts.gate_up, (0, 0, 0, 2 * fill)), bias),
            ("down", zeros(experts.down, (0, fill)), experts.down_bias),
        ):
            found = self._rounding(weight_ENK.flatten(0, 1), self._bits, [group])
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
        """How many matrices have which group, and how far rounding moved them (`Rounded.error`)."""
        return {
            "scheme": f"int{self._bits}",
            "groups": {str(group): self._groups[group] for group in sorted(self._groups)},
            "relative_error": {"median": median(self._errors), "max": max(self._errors)},
        }

    def _store(self, name: str, weight_NK: torch.Tensor, bits: int, waste: float) -> _Stored:
        found = self._rounding(weight_NK, bits, groups_for(weight_NK.shape[1], waste))
        self._note(found)
        codes = self._writer.weight(f"{name}.codes", found.packed)
        scales = self._writer.weight(f"{name}.scales", found.scales)
        return _Stored(codes, scales, weight_NK.shape[0], weight_NK.shape[1], found.group, bits)

    def _note(self, found: Rounded) -> None:
        self._groups[found.group] += 1
        self._errors.append(found.error)

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
