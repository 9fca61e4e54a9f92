"""A GGUF file, written tensor by tensor by the `gguf` package."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lathe.artefact.errors import UserError
from lathe.artefact.large_writes import LargeWrites
from lathe.compressor.export.gguf.tensors import FileTensor, Part
from lathe.compressor.export.gguf.types import Encoded, Rows, Value, row_bytes
from lathe.compressor.model.rounding import QuantizedMatrix

Read = Callable[[str], Value]
"""Gives a tensor by our name: float32, or a matrix in codes."""
Encode = Callable[[FileTensor, Value, str], Encoded]
"""Stores rows of a tensor in a type."""


@dataclass
class Written:
    """What a file came to hold.

    Attributes:
        matrices: Matrices by type.
        bytes: Bytes by type, vectors included.
        errors: Of every matrix that was quantized.
    """

    matrices: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    errors: list[float] = field(default_factory=list)


def write_file(
    path: Path,
    architecture: str,
    metadata: Mapping[str, Any],
    tensors: Sequence[tuple[FileTensor, str]],
    read: Read,
    encode: Encode,
    *,
    durable: bool = True,
) -> Written:
    """Writes a file; one tensor at a time is in memory.

    Args:
        path: The file, which is replaced.
        architecture: Its architecture.
        metadata: Its metadata by key.
        tensors: Its tensors, each with its type.
        read: Gives the values.
        encode: Stores them.
        durable: Whether the file is synced.

    Raises:
        UserError: The disk refuses, or values cannot be stored.
    """
    import gguf

    logging.getLogger("gguf").setLevel(logging.WARNING)
    writer, written = gguf.GGUFWriter(None, architecture), Written()
    for key, value in metadata.items():
        _add(writer, key, value)
    for tensor, kind in tensors:
        size = row_bytes(kind, tensor.dims[-1]) * (tensor.dims[0] if len(tensor.dims) > 1 else 1)
        number = gguf.GGMLQuantizationType[kind]
        writer.add_tensor_info(tensor.name, tensor.dims, np.dtype(np.float32), size, number)
        written.bytes[kind] += size
        written.matrices[kind] += len(tensor.dims) > 1
    try:
        with closing(writer):
            writer.write_header_to_file(path)
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            [file] = writer.fout or []
            pieces = LargeWrites(file)
            for tensor, kind in tensors:
                pieces.write(bytes(-pieces.tell() % writer.data_alignment))
                pieces.write(_rows(tensor, kind, read, encode, written.errors).data)
            pieces.write(bytes(-pieces.tell() % writer.data_alignment))
            pieces.flush()
            if durable:
                os.fsync(file.fileno())
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({sum(written.bytes.values()):,} bytes): {error.strerror or error}",
            "Free space there, or choose another place.",
        ) from None
    return written


def _add(writer: Any, key: str, value: Any) -> None:
    kinds: dict[type, Callable[[str, Any], None]] = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
    }
    kinds.get(type(value), writer.add_array)(key, value)


def _rows(tensor: FileTensor, kind: str, read: Read, encode: Encode, errors: list[float]) -> Rows:
    """Returns a tensor as it is stored, and adds its error where it was quantized."""
    found = [encode(tensor, _value(part, read), kind) for part in tensor.parts]
    errors += [part.error for part in found if part.error is not None]
    rows = [np.ascontiguousarray(part.rows) for part in found]
    return rows[0] if len(rows) == 1 else np.concatenate(rows)


def _value(part: Part, read: Read) -> Value:
    """Returns the values of a part in the file's order, with zeros where the file has more."""
    value = read(part.source) if part.constant is None else part.constant
    if isinstance(value, QuantizedMatrix):
        value = value.padded(*part.dims)
    else:
        fill = [size for has, size in zip(value.shape, part.dims, strict=True) for size in (size - has, 0)]
        value = torch.nn.functional.pad(value, fill[::-1]) if any(fill) else value
    value = value if part.order is None else value[part.order]
    return value + part.offset if part.offset and isinstance(value, torch.Tensor) else value
