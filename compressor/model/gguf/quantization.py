"""The types of GGUF tensors, by the `gguf` package: their sizes, and their values as floats."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import torch

from lathe.artefact.errors import UserError
from lathe.artefact.gguf.header import DAMAGED, GgufTensor

_KEPT = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Types that a checkpoint can have as they are."""
_AT_ONCE = 2**21
"""Values that are dequantized together: temporaries stay small."""


def check_type(name: str, tensor: GgufTensor) -> None:
    """Checks that a tensor's type can be dequantized, and that the file is as long as it has to be.

    Raises:
        UserError: The type is not known to the package, or the file ends too early.
    """
    kind = _type(tensor.kind)
    if kind is None or not _readable(tensor.kind):
        shown = f"{tensor.kind}" if kind is None else kind.name
        raise UserError(
            f"`{name}` in {tensor.file} is of the type {shown}, which the package gguf cannot dequantize",
            "Install a newer gguf, or take another quantization of the model.",
        )
    if tensor.shape[-1] % _block(tensor.kind)[0]:
        raise UserError(
            f"`{name}` in {tensor.file} has rows of {tensor.shape[-1]} {kind.name} values", DAMAGED
        )
    size = tensor.file.stat().st_size
    if tensor.offset + stored_bytes(tensor) > size:
        raise UserError(f"{tensor.file} has {size:,} bytes and ends within `{name}` or before it", DAMAGED)


def stored_bytes(tensor: GgufTensor) -> int:
    """Returns the bytes that a tensor takes in its file."""
    values, size = _block(tensor.kind)
    return math.prod(tensor.shape) // values * size


def value_dtype(tensor: GgufTensor) -> torch.dtype:
    """Returns the type that a tensor's values are stored in: its own if it is a float, else float32."""
    kind = _type(tensor.kind)
    return _KEPT.get(kind.name if kind else "", torch.float32)


def read_values(tensor: GgufTensor, rows: np.ndarray[Any, Any] | None = None) -> torch.Tensor:
    """Returns a tensor's values, in `value_dtype`.

    Args:
        tensor: The tensor.
        rows: The order in which a matrix's rows are taken; as they are without it.

    Raises:
        OSError: The file cannot be read.
    """
    import gguf

    values, size = _block(tensor.kind)
    width = tensor.shape[-1] // values * size
    with tensor.file.open("rb") as handle:
        handle.seek(tensor.offset)
        raw = np.fromfile(handle, np.uint8, stored_bytes(tensor)).reshape(*tensor.shape[:-1], width)
    raw = (raw if rows is None else raw[rows]).reshape(-1, width)
    if tensor.kind in {gguf.GGMLQuantizationType[name] for name in _KEPT}:
        return torch.from_numpy(raw).view(value_dtype(tensor)).view(tensor.shape)
    return _dequantized(raw, tensor.kind, tensor.shape[-1]).view(tensor.shape)


def _dequantized(raw: np.ndarray[Any, Any], kind: int, columns: int) -> torch.Tensor:
    """Returns the values of rows of blocks as float32. Some rows are computed at a time."""
    import gguf

    found, some = np.empty((len(raw), columns), np.float32), max(1, _AT_ONCE // columns)
    for first in range(0, len(raw), some):
        part = slice(first, first + some)
        found[part] = gguf.dequantize(raw[part], gguf.GGMLQuantizationType(kind))
    return torch.from_numpy(found)


def _type(kind: int) -> Any:
    import gguf

    try:
        return gguf.GGMLQuantizationType(kind)
    except ValueError:
        return None


def _block(kind: int) -> tuple[int, int]:
    """Returns how many values are quantized together, and their bytes."""
    import gguf

    values, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
    return int(values), int(size)


@cache
def _readable(kind: int) -> bool:
    """Returns whether the package can dequantize a type; tries it on one block of zeros."""
    import gguf

    try:
        gguf.dequantize(np.zeros((1, _block(kind)[1]), np.uint8), gguf.GGMLQuantizationType(kind))
    except (NotImplementedError, KeyError):
        return False
    return True
