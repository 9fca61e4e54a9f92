"""Tensors of small random values: latency needs shapes, not values."""

from __future__ import annotations

from collections.abc import Mapping

import torch

_POOL = 1 << 22
_SCALE = 0.02


class RandomWeights:
    """Gives a tensor by its name, as fast as memory allows; vectors of weights are ones.

    Every tensor is a window, at its own offset, of one pool of 4 Mi values that repeats for ever. One that is
    longer than the pool is in memory alone, for as long as it is used.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._pool = (torch.randn(_POOL, generator=self._generator) * _SCALE).repeat(2)
        self._shapes = shapes

    def __call__(self, name: str) -> torch.Tensor:
        dims = torch.Size(self._shapes[name])
        if len(dims) == 1 and name.endswith(".weight"):
            return torch.ones(dims)
        start = int(torch.randint(_POOL, (), generator=self._generator))
        end = start + dims.numel()
        enough = self._pool if end <= 2 * _POOL else self._pool.repeat(-(-end // (2 * _POOL)))
        return enough[start:end].reshape(dims)
