"""A model of random weights in a plan's shape: latency needs shapes, not values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lathe.artefact.plan import Plan
from lathe.compressor.export.layout import pruned_tensors
from lathe.compressor.export.onnx.graph import Rounded, build_onnx
from lathe.compressor.export.onnx.matrices import Matrices, Plain
from lathe.compressor.export.onnx.writer import GraphWriter, Storage
from lathe.compressor.export.random_weights import RandomWeights
from lathe.compressor.model.cache_rounding import CacheScales
from lathe.compressor.model.families import Family

_SCALE = 0.02


def random_onnx(
    directory: Path,
    config: dict[str, Any],
    family: Family,
    plan: Plan,
    seed: int = 0,
    matrices: Callable[[GraphWriter], Matrices] = Plain,
    int8_cache: bool = False,
    nested: bool = False,
) -> None:
    """Writes the graph of `plan` with random weights (norms are one), as fast as the disk allows.

    All scales of an `int8_cache` are alike. The files are not synced. `nested` is the storage's.

    Raises:
        UserError: as `build_onnx`.
    """
    shape = family.shape(config)
    tensor = RandomWeights(dict(pruned_tensors(shape, plan)), seed)

    def scales(index: int) -> CacheScales:
        every = torch.full((plan[index].kv_heads, shape.head_dim), _SCALE)
        return CacheScales(every, every)

    rounded = Rounded(cache=scales if int8_cache else None)
    build_onnx(
        directory,
        config,
        family,
        plan,
        tensor,
        matrices,
        rounded=rounded,
        storage=Storage(durable=False, nested=nested),
    )
