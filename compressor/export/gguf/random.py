"""A GGUF file of random weights in a plan's shape: latency needs shapes, not values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lathe.artefact.plan import Plan
from lathe.compressor.export.gguf.build import Origin, build_gguf
from lathe.compressor.export.gguf.tensors import FileTensor
from lathe.compressor.export.gguf.types import FLOATS, Encoded, Rows, Types, Value, row_bytes
from lathe.compressor.export.layout import pruned_tensors
from lathe.compressor.export.random_weights import RandomWeights
from lathe.compressor.model.families import Family

_ROWS = 64
"""Of a matrix, that are quantized."""


def random_gguf(path: Path, config: Mapping[str, Any], family: Family, plan: Plan, types: Types) -> None:
    """Writes a file of `plan` with random weights and no tokenizer, as fast as the disk allows.

    The file is not synced.

    Raises:
        UserError: as `build_gguf`.
    """
    tensor = RandomWeights(dict(pruned_tensors(family.shape(dict(config)), plan)))
    build_gguf(path, config, family, plan, tensor, _Repeated(types), Origin("random"), durable=False)


@dataclass(frozen=True)
class _Repeated:
    """The types of a file, in which all matrices of a quantized type repeat blocks of the first one."""

    types: Types
    blocks: dict[str, Rows] = field(default_factory=dict)

    @property
    def metadata(self) -> dict[str, Any]:
        """What the file says of its types."""
        return self.types.metadata

    def of(self, tensor: FileTensor) -> str:
        """Returns the type of a tensor."""
        return self.types.of(tensor)

    def encode(self, tensor: FileTensor, value: Value, kind: str) -> Encoded:
        """Stores rows of a tensor in a type."""
        if kind in FLOATS:
            return self.types.encode(tensor, value, kind)
        assert isinstance(value, torch.Tensor)
        if kind not in self.blocks:
            self.blocks[kind] = self.types.encode(tensor, value[:_ROWS], kind).rows.reshape(-1)
        rows, columns = value.shape
        size = row_bytes(kind, columns)
        return Encoded(np.resize(self.blocks[kind], rows * size).reshape(rows, size))
