"""Files that are stored once although they are in several directories: hard links."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from lathe.artefact.errors import UserError


def link(source: Path, target: Path) -> None:
    """Makes a file appear under one more name; a file system without hard links gets a copy.

    Raises:
        UserError: the file system refuses both.
    """
    try:
        target.unlink(missing_ok=True)
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from None


def link_equal_files(directories: Sequence[Path]) -> None:
    """Stores once what files of the same name have in several directories, where every byte is equal.

    Raises:
        UserError: a file cannot be read, or the file system refuses.
    """
    known: dict[tuple[Path, bytes], Path] = {}
    for directory in directories:
        for file in sorted(directory.rglob("*")):
            if file.is_file():
                first = known.setdefault((file.relative_to(directory), _digest(file)), file)
                if not first.samefile(file):
                    link(first, file)


def bytes_once(directories: Iterable[Path]) -> int:
    """Returns the bytes of all files in some directories, those with several names once."""
    files = (file.stat() for directory in directories for file in directory.rglob("*") if file.is_file())
    return sum({(found.st_dev, found.st_ino): found.st_size for found in files}.values())


def _digest(file: Path) -> bytes:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").digest()
