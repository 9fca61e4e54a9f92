"""What tests give workers to do: worked from a module, as a worker has to import it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from compressor.errors import UserError


class Deadly:
    """Squares numbers; kills the worker that does `deadly`, as often as there are files to take."""

    def __init__(self, deadly: int, folder: Path) -> None:
        self.deadly, self.folder = deadly, folder

    def __call__(self, item: int) -> int:
        for file in self.folder.iterdir() if item == self.deadly else ():
            file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return item**2


def refuse(item: int) -> int:
    """All but 3."""
    if item == 3:
        raise UserError(f"{item} will not do", "Give another.")
    return item


def lives(folder: Path, count: int) -> Path:
    """So many files for `Deadly`."""
    for number in range(count):
        (folder / str(number)).touch()
    return folder
