"""Files that are either complete or absent: temporary name, fsync, rename."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from lathe.artefact.errors import UserError


@contextmanager
def atomic_write(path: Path, expected_bytes: int | None = None) -> Iterator[BinaryIO]:
    """Open `path` for writing under a temporary name; on success it is synced and renamed.

    `expected_bytes` is only named in the error. On failure nothing of the file is left.

    Raises:
        UserError: the file system refuses (full, read-only, no permission).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as error:
        size = f" ({expected_bytes:,} bytes)" if expected_bytes is not None else ""
        raise UserError(
            f"cannot write {path}{size}: {error.strerror or error}",
            "Free space there, or choose another place.",
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, whole or not at all."""
    with atomic_write(path, len(content)) as handle:
        handle.write(content)


def write_json(path: Path, document: Any) -> None:
    """Replace `path` by a JSON document people can read, whole or not at all."""
    write_bytes(path, (json.dumps(document, indent=2) + "\n").encode())


def sync_directory(directory: Path) -> None:
    """Make the renames done in `directory` survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
