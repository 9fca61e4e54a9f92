"""A safetensors file written tensor by tensor, so that no shard is ever whole in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from compressor.export.files import atomic_write

DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def write_safetensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    tensor: Callable[[str], torch.Tensor],
) -> None:
    """Write the tensors of `shapes`, in that order and all of `dtype`, asking `tensor` for one at a time.

    Raises:
        UserError: the file system refuses.
        ValueError: a tensor has another shape or dtype than was announced.
    """
    header: dict[str, dict[str, Any]] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, dims in shapes.items():
        end = offset + tensor_bytes(dims, dtype)
        header[name] = {"dtype": DTYPE_NAMES[dtype], "shape": dims, "data_offsets": (offset, end)}
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with atomic_write(path, 8 + len(encoded) + offset) as handle:
        handle.write(len(encoded).to_bytes(8, "little"))
        handle.write(encoded)
        for name, dims in shapes.items():
            value = tensor(name)
            if value.shape != dims or value.dtype != dtype:
                raise ValueError(f"`{name}` is {value.dtype} {list(value.shape)}, not {dtype} {list(dims)}")
            handle.write(value.detach().contiguous().view(-1).view(torch.uint8).numpy().data)


def tensor_bytes(dims: tuple[int, ...], dtype: torch.dtype) -> int:
    return torch.Size(dims).numel() * dtype.itemsize
