"""What tests give workers to do: worked from a module, as a worker has to import it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lathe.artefact.errors import UserError
from lathe.compressor.compute.workers import Sharded


class Deadly:
    """Squares numbers; kills the worker that does `deadly`, as often as there are files to take."""

    def __init__(self, deadly: int, folder: Path) -> None:
        self.deadly, self.folder = deadly, folder

    def __call__(self, item: int) -> int:
        for file in self.folder.iterdir() if item == self.deadly else ():
            file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return item**2


@dataclass
class Fragile(Sharded[range]):
    """Shards 0 to 3 and 4 to 7: each half kills who holds it as often as there are files in its folder."""

    low: Path
    high: Path

    def hold(self, shards: range) -> range:
        for file in (self.high if shards.stop > 4 else self.low).iterdir():
            file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return shards


def numbers(held: range) -> Iterator[list[int]]:
    """Of the shards, in one step."""
    yield [*held]


def refuse(item: int) -> int:
    """All but 3."""
    if item == 3:
        raise UserError(f"{item} will not do", "Give another.")
    return item


def lives(folder: Path, count: int) -> Path:
    """So many files for `Deadly` and `Fragile`."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        (folder / str(number)).touch()
    return folder
