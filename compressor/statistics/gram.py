"""The Gram accumulator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol, Self, TypeVar

import torch


class _Mean:
    """Accumulates the mean over rows of what is summed over them by batch, in float64; nothing is allocated
    before the first.
    """

    def __init__(self, *shape: int) -> None:
        self._shape = shape
        self._sum: torch.Tensor | None = None
        self._rows = 0

    def _add(self, found: torch.Tensor, rows: int) -> None:
        if self._sum is None:
            self._sum = found.double()
        else:
            self._sum += found
        self._rows += rows

    def add(self, other: Self) -> None:
        """What another one has accumulated; it may become part of this one."""
        if other._sum is not None:
            self._add(other._sum, other._rows)

    def mean(self) -> torch.Tensor:
        """In float64. The sum itself becomes it."""
        if self._sum is None:
            return torch.zeros(self._shape, dtype=torch.float64)
        self._sum /= self._rows
        self._rows = 1
        return self._sum


class Gram(_Mean):
    """Accumulates G = X^T X / n over batches of rows, [width, width]. parts: of so many equal parts of a row,
    each by itself, [parts, width / parts, width / parts]; 0: of the row.
    """

    def __init__(self, width: int, parts: int = 0) -> None:
        self.width, own = width, width // max(parts, 1)
        self._parts = (parts,) if parts else ()
        super().__init__(*self._parts, own, own)

    def add_batch(self, x: torch.Tensor) -> None:
        """x: [..., width]."""
        flat = x.reshape(-1, x.shape[-1])
        rows = len(flat)
        if self._parts:
            flat = flat.unflatten(-1, (*self._parts, -1)).transpose(0, 1)
        self._add(flat.mT @ flat, rows)


class Grams:
    """Of named matrices: what each reads, and the gradients at what it gives."""

    def __init__(self, reads: dict[str, Gram], gives: dict[str, Gram]) -> None:
        self.reads, self.gives = reads, gives

    @classmethod
    def of(cls, weights: Mapping[str, torch.Tensor]) -> Grams:
        """Of nothing yet. weights: [out, in] of each."""
        reads, gives = ({n: Gram(w.shape[axis]) for n, w in weights.items()} for axis in (1, 0))
        return cls(reads, gives)

    def add_batch(self, name: str, read: torch.Tensor, gradient: torch.Tensor) -> None:
        """read: [..., in], or more, which is left out. gradient: [..., out]."""
        self.reads[name].add_batch(read[..., : self.reads[name].width])
        self.gives[name].add_batch(gradient)

    def add(self, other: Self) -> None:
        """What another one has accumulated."""
        for mine, its in ((self.reads, other.reads), (self.gives, other.gives)):
            for name, gram in its.items():
                mine[name].add(gram)


class HeadSquares(_Mean):
    """Accumulates the mean square of each head over batches of rows, [heads]."""

    def __init__(self, head_dim: int) -> None:
        self._head_dim = head_dim
        super().__init__()

    def add_batch(self, x: torch.Tensor) -> None:
        """x: [..., heads * head_dim]."""
        heads = x.reshape(-1, x.shape[-1] // self._head_dim, self._head_dim)
        self._add(heads.square().mean(-1).double().sum(0), len(heads))


class CrossGram(_Mean):
    """Accumulates C = Y^T X / n for targets Y [..., d] and inputs X [..., width], [d, width]."""

    def __init__(self, targets: int, width: int) -> None:
        super().__init__(targets, width)

    def add_batch(self, y: torch.Tensor, x: torch.Tensor) -> None:
        flat = x.reshape(-1, x.shape[-1])
        self._add(y.reshape(-1, y.shape[-1]).T @ flat, len(flat))


class Accumulator(Protocol):
    def add(self, other: Self, /) -> None: ...


A = TypeVar("A", bound=Accumulator)


def merged(parts: Iterable[A]) -> A:
    """All of it, added in order as it comes; the first part becomes the sum."""
    left = iter(parts)
    whole = next(left)
    for part in left:
        whole.add(part)
    return whole
