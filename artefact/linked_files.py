"""Files that are stored once although they are in several directories: hard links."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections import defaultdict
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
    known: dict[Path, list[Path]] = defaultdict(list)
    for directory in directories:
        for file in sorted(filter(Path.is_file, directory.rglob("*"))):
            others = known[file.relative_to(directory)]
            if any(file.samefile(other) for other in others):
                continue
            equal = next((other for other in others if filecmp.cmp(other, file, shallow=False)), None)
            if equal is None:
                others.append(file)
            else:
                link(equal, file)


def bytes_once(directories: Iterable[Path]) -> int:
    """Returns the bytes of all files in some directories, those with several names once."""
    files = (file.stat() for directory in directories for file in directory.rglob("*") if file.is_file())
    return sum({(found.st_dev, found.st_ino): found.st_size for found in files}.values())
