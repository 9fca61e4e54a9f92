"""A model of random weights in a plan's shape: latency needs shapes, not values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lathe.artefact.plan import Plan
from lathe.compressor.export.layout import pruned_tensors
from lathe.compressor.export.onnx.graph import build_onnx
from lathe.compressor.export.onnx.matrices import Matrices, Plain
from lathe.compressor.export.onnx.writer import GraphWriter
from lathe.compressor.model.families import Family

_POOL = 1 << 22
_SCALE = 0.02


def random_onnx(
    directory: Path,
    config: dict[str, Any],
    family: Family,
    plan: Plan,
    seed: int = 0,
    matrices: Callable[[GraphWriter], Matrices] = Plain,
) -> None:
    """Writes the graph of `plan` with small random weights (norms are one), as fast as the disk allows.

    Every tensor is a window, at its own offset, of one pool of 4 Mi values that repeats for ever. One that is
    longer than the pool is in memory alone, while it is written. The files are not synced.

    Raises:
        UserError: as `build_onnx`.
    """
    generator = torch.Generator().manual_seed(seed)
    pool = (torch.randn(_POOL, generator=generator) * _SCALE).repeat(2)
    shapes = dict(pruned_tensors(family.shape(config), plan))

    def tensor(name: str) -> torch.Tensor:
        dims = torch.Size(shapes[name])
        if len(dims) == 1 and name.endswith(".weight"):
            return torch.ones(dims)
        start = int(torch.randint(_POOL, (), generator=generator))
        end = start + dims.numel()
        long_enough = pool if end <= 2 * _POOL else pool.repeat(-(-end // (2 * _POOL)))
        return long_enough[start:end].reshape(dims)

    build_onnx(directory, config, family, plan, tensor, matrices, durable=False)
