"""Experts of a layer that a checkpoint has in one tensor: as floats, or packed as MXFP4."""

from __future__ import annotations

from dataclasses import dataclass

import torch

BLOCK = 32
"""Inputs that share a scale in MXFP4."""
PACKED = ("_blocks", "_scales")
"""What is behind the names of packed tensors."""
_FP4 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
_EXPONENT_BIAS = 127


@dataclass(frozen=True, slots=True)
class Stack:
    """A tensor `name` of a checkpoint that holds one of ours for every expert.

    Its shape is [E, inputs, outputs], or [E, outputs] for biases.

    Attributes:
        name: Of the checkpoint's tensor.
        axis: The axis of ours along which experts lie.
        first: The first of its outputs that is in ours.
        every: The stride of the outputs that are in ours.
        matrix: Whether it has inputs.
    """

    name: str
    axis: int = 0
    first: int = 0
    every: int = 1
    matrix: bool = True

    def dims(self, ours: tuple[int, ...], experts: int) -> tuple[int, ...]:
        """Returns the stored shape, from the shape in our layout."""
        one = [size // experts if axis == self.axis else size for axis, size in enumerate(ours)]
        outputs = one[0] * self.every
        return (experts, one[1], outputs) if self.matrix else (experts, outputs)

    def taken(self, stored: torch.Tensor) -> torch.Tensor:
        """Converts a stored [E, inputs, outputs] tensor to our layout."""
        part = stored[..., self.first :: self.every]
        return self._joined(part.mT if self.matrix else part)

    def unpacked(self, blocks: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """Converts a matrix of MXFP4 (OCP Microscaling Formats, 1.0) to our layout.

        Blocks are uint8 [E, outputs, inputs/32, 16]: each byte holds two values of a sign, two bits of an
        exponent and one of a mantissa, the first in the lower half. Scales are uint8 [E, outputs, inputs /
        32]: the power of two that a block is multiplied by, plus 127.
        """
        blocks, scales = (part[:, self.first :: self.every] for part in (blocks, scales))
        codes = torch.stack([blocks & 15, blocks >> 4], -1).flatten(-2).int()
        values = torch.cat([_FP4, -_FP4])[codes]
        return self._joined(values.ldexp(scales.int()[..., None] - _EXPONENT_BIAS).flatten(-2))

    def _joined(self, part: torch.Tensor) -> torch.Tensor:
        """Concatenates the experts of a tensor [E, outputs, ...]."""
        return part.flatten(0, 1) if self.axis == 0 else part.movedim(0, 1).flatten(1)
