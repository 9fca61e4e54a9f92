"""Weights that Lathe rounds, in the types of llama.cpp that hold its codes and scales: Q8_0 and Q4_0.

Both are symmetric, in blocks of 32 columns of a row with a scale in float16. Codes of larger groups fit, too:
their scale is repeated. So what rounding with compensation made of a matrix is in the file as it is; scales
have bfloat16's digits, which float16 holds within its range.

Shapes: R rows, B blocks of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lathe.artefact.plan import Plan
from lathe.compressor.export.gguf.quantized_types import QUANTIZED, TABLES, fitting
from lathe.compressor.export.gguf.tensors import BLOCK, FileTensor
from lathe.compressor.export.gguf.types import FLOATS, Encoded, Rows, Value, as_floats
from lathe.compressor.model.rounding import QuantizedMatrix, quantize_in_groups

KINDS = {8: "Q8_0", 4: "Q4_0"}
"""The type of codes of so many bits."""
_BITS = {kind: bits for bits, kind in KINDS.items()}


@dataclass(frozen=True)
class CodedTypes:
    """Every block's matrices in the bits that a plan gives it, embedding and head in its `head_bits`.

    Attributes:
        plan: The bits.
        floats: The type of matrices without bits.
    """

    plan: Plan
    floats: str

    @property
    def metadata(self) -> dict[str, Any]:
        """What the file says of its types."""
        return QUANTIZED

    def of(self, tensor: FileTensor) -> str:
        """Returns the type of a tensor."""
        if len(tensor.dims) < 2:
            return "F32"
        bits = self.plan.head_bits if tensor.name in TABLES else 0
        if tensor.block:
            bits = self.plan[tensor.block[0]].bits(tensor.block[1])
        return fitting(KINDS[bits], tensor.dims[1]) if bits else self.floats

    def encode(self, tensor: FileTensor, value: Value, kind: str) -> Encoded:
        """Stores rows of a tensor: codes as they are, other values rounded to nearest.

        Raises:
            UserError: Values are beyond the range of float16.
        """
        if kind in FLOATS:
            return Encoded(as_floats(tensor.name, value, kind))
        if not isinstance(value, QuantizedMatrix):
            value = quantize_in_groups(value, _BITS[kind], BLOCK)
        return Encoded(packed(value), value.error)


def packed(matrix: QuantizedMatrix) -> Rows:
    """Returns codes of 8 or 4 bits in blocks of Q8_0 or Q4_0: a scale, then 32 codes, uint8 [R, bytes].

    Of 4 bits, the first 16 codes of a block are in the lower halves, raised by 8.
    """
    blocks = matrix.columns // BLOCK
    codes_RBK = matrix.codes[:, : matrix.columns].reshape(len(matrix), blocks, BLOCK)
    scales_RB = matrix.scales.repeat_interleave(matrix.group // BLOCK, 1)[:, :blocks]
    halves = scales_RB.to(torch.float16).unsqueeze(-1).numpy().view(np.uint8)
    if matrix.bits == 8:
        stored = codes_RBK.contiguous().numpy().view(np.uint8)
    else:
        raised = (codes_RBK + 8).to(torch.uint8)
        stored = (raised[..., : BLOCK // 2] | (raised[..., BLOCK // 2 :] << 4)).numpy()
    return np.concatenate([halves, stored], -1).reshape(len(matrix), -1)
