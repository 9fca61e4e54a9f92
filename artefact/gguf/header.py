"""The header of one GGUF file: its metadata, and where its tensors are. Every length is checked first."""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lathe.artefact.errors import UserError

_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Codes of metadata types, as `struct` has them."""
_MAX_DIMENSIONS = 4
_LEAST_ENTRY, _LEAST_TENSOR = 13, 32
"""The bytes of the shortest metadata entry and of the shortest description of a tensor."""
_ALIGNMENT = "general.alignment"
DAMAGED = "The file is incomplete or damaged: download or copy it again."


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor is.

    Attributes:
        file: The file that holds it.
        shape: Its dimensions, rows first, as PyTorch counts them.
        kind: The number of its type in GGUF.
        offset: Its first byte in the file.
    """

    file: Path
    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True)
class Header:
    """What is before the tensors of one file."""

    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]


def read_header(file: Path) -> Header:
    """Reads the header of a GGUF file, and no weights.

    Raises:
        UserError: It cannot be read, is no GGUF file of a known version, or ends too early.
    """
    with _mapped(file) as content:
        reader = _Reader(file, content)
        reader.check_start()
        tensor_count = reader.count("tensors", _LEAST_TENSOR, entries_follow=False)
        metadata = _read_metadata(reader, reader.count("metadata entries", _LEAST_ENTRY))
        tensors = [_read_tensor(reader) for _ in range(tensor_count)]
        start = reader.at + -reader.at % _alignment(file, metadata)
    placed = {name: GgufTensor(file, shape, kind, start + at) for name, shape, kind, at in tensors}
    if len(placed) != len(tensors):
        raise UserError(f"{file} lists a tensor twice", DAMAGED)
    return Header(metadata, placed)


@contextmanager
def _mapped(file: Path) -> Iterator[mmap.mmap]:
    try:
        with file.open("rb") as handle:
            if not file.stat().st_size:
                raise UserError(f"{file} is empty", DAMAGED)
            with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
                yield content
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from None


class _Reader:
    """Takes values from a file in their order, and refuses to go beyond its end."""

    def __init__(self, file: Path, content: mmap.mmap) -> None:
        self.file, self.at, self._content = file, 0, content

    def check_start(self) -> None:
        """Checks the first four bytes and the version."""
        if self._content[: len(_MAGIC)] != _MAGIC[: len(self._content)]:
            raise UserError(f"{self.file} is not a GGUF file", "It does not begin with GGUF.")
        self.at = len(_MAGIC)
        version = self.scalar("I")
        if version and not version & 0xFFFF:
            raise UserError(
                f"{self.file} is a big-endian GGUF file, which Lathe does not read",
                "Convert it with gguf-convert-endian, of the package gguf.",
            )
        if version not in _VERSIONS:
            raise UserError(
                f"{self.file} has version {version} of GGUF; Lathe reads 2 and 3",
                "Convert the model again with today's llama.cpp.",
            )

    def take(self, length: int) -> bytes:
        """Returns the next bytes."""
        if length > len(self._content) - self.at:
            raise UserError(f"{self.file} ends within its header", DAMAGED)
        self.at += length
        return self._content[self.at - length : self.at]

    def scalar(self, code: str) -> Any:
        """Returns the next number. A float32 becomes the shortest decimal number that it stands for."""
        (value,) = struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))
        return float(str(np.float32(value))) if code == "f" else value

    def count(self, what: str, least: int, *, entries_follow: bool = True) -> int:
        """Returns how many entries there are, if the file has room for them."""
        number = int(self.scalar("Q"))
        room = len(self._content) - (self.at if entries_follow else 0)
        if number > room // least:
            raise UserError(f"{self.file} announces {number:,} {what}, more than it has room for", DAMAGED)
        return number

    def text(self) -> str:
        """Returns the next string."""
        try:
            return self.take(self.scalar("Q")).decode()
        except UnicodeDecodeError:
            raise UserError(f"{self.file} holds a text that is not UTF-8", DAMAGED) from None

    def value(self, kind: int) -> Any:
        """Returns the next metadata value."""
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            return self._array(self.scalar("I"))
        if kind not in _SCALARS:
            raise UserError(f"{self.file} has metadata of an unknown type ({kind})", DAMAGED)
        return self.scalar(_SCALARS[kind])

    def _array(self, kind: int) -> list[Any]:
        if kind == _STRING:
            return [self.text() for _ in range(self.count("texts", 8))]
        if kind not in _SCALARS:
            raise UserError(f"{self.file} has a list of an unknown type ({kind})", DAMAGED)
        item = np.dtype(f"<{_SCALARS[kind]}")
        return np.frombuffer(self.take(self.count("values", item.itemsize) * item.itemsize), item).tolist()


def _read_metadata(reader: _Reader, count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(count):
        key = reader.text()
        if key in metadata:
            raise UserError(f"{reader.file} has the metadata `{key}` twice", DAMAGED)
        metadata[key] = reader.value(reader.scalar("I"))
    return metadata


def _read_tensor(reader: _Reader) -> tuple[str, tuple[int, ...], int, int]:
    """Returns a tensor's name, shape, type, and its place after the header."""
    name, dimensions = reader.text(), reader.scalar("I")
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise UserError(f"`{name}` in {reader.file} has {dimensions} dimensions", DAMAGED)
    shape = tuple(reader.scalar("Q") for _ in range(dimensions))[::-1]
    if not 0 < math.prod(shape) < 2**63:
        raise UserError(f"`{name}` in {reader.file} has the shape {list(shape)}", DAMAGED)
    return name, shape, reader.scalar("I"), reader.scalar("Q")


def _alignment(file: Path, metadata: dict[str, Any]) -> int:
    found = metadata.get(_ALIGNMENT, 32)
    if not isinstance(found, int) or found < 1 or found & (found - 1):
        raise UserError(f"{file} has the alignment {found}, which is not a power of two", DAMAGED)
    return found
