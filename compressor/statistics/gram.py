"""Accumulators of second moments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol, Self, TypeVar

import torch

_BLOCK = 256
"""Columns of a Gram matrix that are computed at a time."""


class _Mean:
    """Accumulates a mean over rows in float64; memory is allocated with the first batch."""

    def __init__(self, *shape: int) -> None:
        self._shape = shape
        self._sum: torch.Tensor | None = None
        self._rows = 0

    def _add(self, batch_sum: torch.Tensor, rows: int) -> None:
        """Adds the sum over a batch of rows; the tensor may become part of the accumulator."""
        if self._sum is None:
            self._sum = batch_sum.double()
        else:
            self._sum += batch_sum
        self._rows += rows

    def add(self, other: Self) -> None:
        """Adds what another accumulator of the same shape has summed; the other one is left as it is."""
        if other._sum is not None:
            self._add(other._sum.clone() if self._sum is None else other._sum, other._rows)

    def finalize(self) -> torch.Tensor:
        """Returns the mean in float64 and empties the accumulator.

        The sum is divided in place, so that no second matrix of this size is needed.
        """
        total, rows = self._sum, self._rows
        self._sum, self._rows = None, 0
        return torch.zeros(self._shape, dtype=torch.float64) if total is None else total.div_(rows)


def _gram(x: torch.Tensor) -> torch.Tensor:
    """Returns X^T X for X [rows, width]: the blocks on and above the diagonal, and their mirror images."""
    width = x.shape[1]
    gram = x.new_empty(width, width)
    for start in range(0, width, _BLOCK):
        end = start + _BLOCK
        strip = x[:, start:end].mT @ x[:, start:]
        gram[start:end, start:] = strip
        gram[end:, start:end] = strip[:, _BLOCK:].mT
    return gram


class Gram(_Mean):
    """Accumulates G = X^T X / n over batches of rows.

    Args:
        width: The length of a row.
        parts: The number of equal parts of a row, each with a matrix of its own, [parts, width / parts,
            width / parts]; 0 accumulates one matrix, [width, width].
    """

    def __init__(self, width: int, parts: int = 0) -> None:
        self.width, own = width, width // max(parts, 1)
        self._parts = (parts,) if parts else ()
        super().__init__(*self._parts, own, own)

    def add_batch(self, x: torch.Tensor) -> None:
        """Adds rows, [..., width]; products of bfloat16 rows are summed in float32, too."""
        flat = x.reshape(-1, x.shape[-1])
        if flat.dtype == torch.bfloat16:
            flat = flat.float()  # a sum rounded to bfloat16 need not be positive definite
        if self._parts:
            parts = flat.unflatten(-1, (*self._parts, -1)).transpose(0, 1)
            self._add(parts.mT @ parts, len(flat))
        else:
            self._add(_gram(flat), len(flat))


class Grams:
    """Gram matrices of the inputs of named weight matrices, and of the gradients at their outputs."""

    def __init__(self, inputs: dict[str, Gram], gradients: dict[str, Gram]) -> None:
        self.inputs, self.gradients = inputs, gradients

    @classmethod
    def of(cls, weights: Mapping[str, torch.Tensor], inputs: bool = True) -> Grams:
        """Creates empty accumulators for these weights, [out, in] each; perhaps of gradients alone."""
        reads, gradients = ({n: Gram(w.shape[axis]) for n, w in weights.items()} for axis in (1, 0))
        return cls(reads if inputs else {}, gradients)

    def add_batch(self, name: str, x: torch.Tensor, gradient: torch.Tensor) -> None:
        """Adds a batch of one matrix.

        Args:
            name: The name of the weight.
            x: Its inputs, [..., in]; columns beyond these are left out.
            gradient: The gradients at its outputs, [..., out].
        """
        if name in self.inputs:
            self.inputs[name].add_batch(x[..., : self.inputs[name].width])
        self.gradients[name].add_batch(gradient)

    def add(self, other: Self) -> None:
        """Adds what another instance has accumulated."""
        for mine, theirs in ((self.inputs, other.inputs), (self.gradients, other.gradients)):
            for name, gram in theirs.items():
                mine[name].add(gram)


class HeadSquares(_Mean):
    """Accumulates the mean square of each head over batches of rows, [heads]."""

    def __init__(self, head_dim: int) -> None:
        self._head_dim = head_dim
        super().__init__()

    def add_batch(self, x: torch.Tensor) -> None:
        """Adds rows, [..., heads * head_dim]."""
        heads = x.reshape(-1, x.shape[-1] // self._head_dim, self._head_dim)
        self._add(heads.float().square().mean(-1).double().sum(0), len(heads))


class CrossGram(_Mean):
    """Accumulates C = Y^T X / n for targets Y [..., d] and inputs X [..., width], [d, width]."""

    def __init__(self, targets: int, width: int) -> None:
        super().__init__(targets, width)

    def add_batch(self, y: torch.Tensor, x: torch.Tensor) -> None:
        """Adds rows of targets with their inputs."""
        flat = x.reshape(-1, x.shape[-1])
        self._add(y.reshape(-1, y.shape[-1]).T @ flat, len(flat))


class Accumulator(Protocol):
    """Sums that can be added to those of another instance."""

    def add(self, other: Self, /) -> None:
        """Adds what another instance has accumulated."""


A = TypeVar("A", bound=Accumulator)


def merge_into_first(parts: Iterable[A]) -> A:
    """Adds all accumulators, in order as they come, to the first one, and returns it."""
    left = iter(parts)
    first = next(left)
    for part in left:
        first.add(part)
    return first
