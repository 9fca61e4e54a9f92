"""Text files: UTF-8 with or without a byte order mark, and lines that end at a line feed."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lathe.artefact.errors import UserError

_COMPRESSED: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def kind(path: Path) -> str:
    """The suffix that says how a file is written, in small letters and without that of a compression."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in _COMPRESSED else suffix


def read_text(path: Path) -> str:
    """The whole file, unpacked where its suffix says so; line ends as they are.

    Raises:
        UserError: it cannot be read, or is not UTF-8 text.
    """
    try:
        with _COMPRESSED.get(path.suffix.lower(), open)(path, "rb") as file:
            content: bytes = file.read()
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"cannot read {path} as UTF-8 text: byte {error.start} (in line {line}) is 0x"
            f"{content[error.start]:02x}, {error.reason}",
            "Save it as UTF-8.",
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(
            f"cannot read {path} as UTF-8 text: line {line} holds a NUL character",
            "It is binary or UTF-16; save it as UTF-8.",
        )
    return text


def lines(text: str) -> Iterator[tuple[int, str]]:
    """Yields every line that is not blank, with its number from 1.

    Only a line feed ends a line: other separators of Unicode, such as U+2028, may stand inside a JSON string.
    """
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.removesuffix("\r")


def problem(error: json.JSONDecodeError) -> str:
    """Returns what is wrong with JSON, and where in its line."""
    return f"{error.msg.removesuffix(' at')} at character {error.colno}"


def parse_json(text: str, place: str) -> Any:
    """The value of a JSON text; place: what it is called in a message, such as `line 3 of a.jsonl`.

    Raises:
        UserError: it is not JSON.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{place} is not JSON: {problem(error)}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is not JSON that can be read: {error}") from None
