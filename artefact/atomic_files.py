"""Files and directories that are either complete or absent: temporary name, fsync, rename."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from lathe.artefact.errors import UserError


@contextmanager
def atomic_write(
    path: Path, expected_bytes: int | None = None, *, durable: bool = True
) -> Iterator[BinaryIO]:
    """Opens `path` for writing under a temporary name; on success it is synced and renamed.

    `expected_bytes` is only named in the error. On failure nothing of the file is left. A file that is not
    `durable` is not synced: a power failure may lose it.

    Raises:
        UserError: the file system refuses (full, read-only, no permission).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as handle:
            yield handle
            handle.flush()
            if durable:
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


def write_bytes(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Replaces `path` by `content`, whole or not at all; `durable` is `atomic_write`'s."""
    with atomic_write(path, len(content), durable=durable) as handle:
        handle.write(content)


def write_json(path: Path, document: Any) -> None:
    """Replaces `path` by a JSON document people can read, whole or not at all."""
    write_bytes(path, (json.dumps(document, indent=2) + "\n").encode())


def sync_directory(directory: Path) -> None:
    """Makes the renames done in `directory` survive a power failure."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish_directory(finished: Path, target: Path, replaced: Path | None = None, remedy: str = "") -> None:
    """Renames a finished directory to its final name, after its contents are synced.

    Args:
        finished: The complete directory, on the file system of `target`.
        target: The final name.
        replaced: Where a directory that is already at `target` is moved. It is moved back when the rename
            fails. Without it, a `target` that holds something is an error.
        remedy: What the error advises.

    Raises:
        UserError: the file system refuses; `finished` is still there.
    """
    try:
        sync_directory(finished)
        if replaced is not None and target.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            target.rename(replaced)
        finished.rename(target)
        sync_directory(target.absolute().parent)
    except OSError as error:
        if replaced is not None and replaced.exists() and not target.exists():
            replaced.rename(target)
        raise UserError(f"cannot write {target}: {error.strerror or error}", remedy) from None


@contextmanager
def staged_directory(target: Path, shared: str | None = None) -> Iterator[Path]:
    """Yields a hidden directory beside `target`, which takes that name when the block succeeds.

    When the block fails, the directory is removed.

    Args:
        target: The final name.
        shared: A file by which a complete `target` is known, where other processes may make the same content:
            the one that was first is kept, and a UserError of the block means nothing then.

    Raises:
        UserError: the file system refuses, or there is something at `target` already.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise UserError(f"cannot write {target.parent}: {error.strerror or error}") from None
    try:
        yield temporary
        temporary.chmod(0o755)
        publish_directory(temporary, target)
    except UserError:
        if shared is None or not (target / shared).is_file():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
