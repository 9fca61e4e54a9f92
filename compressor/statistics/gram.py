"""The Gram accumulator."""

from __future__ import annotations

import torch


class Gram:
    """Accumulates G = X^T X / n over batches of rows, in float64."""

    def __init__(self, width: int) -> None:
        self._sum = torch.zeros(width, width, dtype=torch.float64)
        self._rows = 0

    def add_batch(self, x: torch.Tensor) -> None:
        """x: [..., width]."""
        flat = x.reshape(-1, x.shape[-1])
        self._sum += (flat.T @ flat).double()
        self._rows += len(flat)

    def mean(self) -> torch.Tensor:
        """[width, width] float64."""
        return self._sum / max(self._rows, 1)


class CrossGram:
    """Accumulates C = Y^T X / n for targets Y [..., d] and inputs X [..., width], in float64."""

    def __init__(self, targets: int, width: int) -> None:
        self._sum = torch.zeros(targets, width, dtype=torch.float64)
        self._rows = 0

    def add_batch(self, y: torch.Tensor, x: torch.Tensor) -> None:
        flat = x.reshape(-1, x.shape[-1])
        self._sum += (y.reshape(-1, y.shape[-1]).T @ flat).double()
        self._rows += len(flat)

    def mean(self) -> torch.Tensor:
        """[targets, width] float64."""
        return self._sum / max(self._rows, 1)
