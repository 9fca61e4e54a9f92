"""Files written in large pieces, so that Linux keeps them in large pieces in memory.

Engines map weights from the file. A file system with large folios (ext4 since Linux 6.16, XFS) keeps what one
call wrote in as large a piece as it can, up to a huge page, until it is read from the disk again. The fewer
pieces, the fewer page table walks of a decode step.
"""

from __future__ import annotations

from typing import BinaryIO

PIECE = 4 << 20
"""Bytes of a write, and where it begins: a multiple of it."""


class LargeWrites:
    """Collects what is written to the end of a file, and hands it on in pieces."""

    def __init__(self, file: BinaryIO) -> None:
        """Goes on where `file` stands, which nothing else writes to until `flush`."""
        self._file = file
        self._place = file.tell()
        self._piece = bytearray()

    def write(self, content: bytes | bytearray | memoryview) -> int:
        """Takes bytes, and returns how many there were.

        Raises:
            OSError: the file system refuses a piece.
        """
        rest = memoryview(content).cast("B")
        size = len(rest)
        while len(self._piece) + len(rest) >= (room := PIECE - self._place % PIECE):
            take = room - len(self._piece)
            self._hand_on(rest[:take] if not self._piece else self._piece + rest[:take])
            rest = rest[take:]
        self._piece += rest
        return size

    def tell(self) -> int:
        """Returns the place in the file of the next byte."""
        return self._place + len(self._piece)

    def flush(self) -> None:
        """Hands on what is left.

        Raises:
            OSError: the file system refuses it.
        """
        self._hand_on(self._piece)
        self._file.flush()

    def _hand_on(self, piece: bytes | bytearray | memoryview) -> None:
        self._file.write(piece)
        self._place += len(piece)
        self._piece = bytearray()
