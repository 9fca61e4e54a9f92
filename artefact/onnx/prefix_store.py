"""Keys and values of prompts' beginnings, each kept once in a file that lies in memory."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lathe.artefact.onnx.kv_cache import PagedCache
from lathe.artefact.onnx.pages import punch


@dataclass(eq=False)
class Line:
    """A place in the file for one beginning of full length, laid out as a slot is.

    Attributes:
        end: where the next chunk has to start.
        chunks: how many there are.
    """

    number: int
    end: int
    chunks: int = 0


@dataclass(eq=False)
class Chunk:
    """Keys and values of the tokens `start` to `stop` of a beginning; dropped from the file when let go of.

    Attributes:
        slots: how many slots show it.
    """

    line: Line
    start: int
    stop: int
    slots: int = 0


class PrefixStore:
    """A sparse file of lines. A chunk lies behind the one before it, so that one mapping shows both."""

    def __init__(self, caches: Sequence[PagedCache]) -> None:
        self._caches = caches
        self.file = os.memfd_create("lathe-prefixes")
        self._line_bytes = sum(cache.slot_bytes for cache in caches)
        self._free: list[int] = []
        self._lines = 0
        weakref.finalize(self, os.close, self.file)

    @property
    def nbytes(self) -> int:
        """The memory that the file takes."""
        return os.fstat(self.file).st_blocks * 512

    def add(self, slot: int, start: int, stop: int, after: Chunk | None) -> Chunk:
        """Copies tokens of a slot; `after` is the chunk that ends at `start`, if the store has it.

        Raises:
            OSError: there is no room.
        """
        line = after.line if after is not None and after.line.end == start else self._new_line(start)
        chunk = Chunk(line, start, stop)
        line.chunks += 1
        line.end = stop
        weakref.finalize(chunk, self._drop, line, start, stop).atexit = False
        for cache, head, row in self._rows(line):
            part = cache.array[slot, head, start:stop]
            if os.pwrite(self.file, part.data, row + start * cache.token_bytes) != part.nbytes:
                raise OSError("no room for the beginning of a prompt")
        return chunk

    def read(self, line: Line, slot: int, start: int, stop: int) -> None:
        """Copies tokens of a line to the same places of a slot."""
        if start >= stop:
            return
        for cache, head, row in self._rows(line):
            part = cache.array[slot, head, start:stop]
            os.preadv(self.file, [part.data], row + start * cache.token_bytes)

    def show(self, line: Line, slot: int, start: int, stop: int) -> None:
        """Maps tokens of a line, in whole pages, to the same places of a slot.

        Raises:
            OSError: the system has no room for more mappings.
        """
        for cache, head, row in self._rows(line):
            cache.show(slot, head, start, stop, self.file, row)

    def _rows(self, line: Line) -> Iterator[tuple[PagedCache, int, int]]:
        """Yields each head of each cache, and where its row begins in the file."""
        row = line.number * self._line_bytes
        for cache in self._caches:
            for head in range(cache.shape[1]):
                yield cache, head, row
                row += cache.row_bytes

    def _new_line(self, start: int) -> Line:
        if self._free:
            return Line(self._free.pop(), start)
        self._lines += 1
        return Line(self._lines - 1, start)

    def _drop(self, line: Line, start: int, stop: int) -> None:
        line.chunks -= 1
        if line.end == stop:
            line.end = start
        if not line.chunks:
            punch(self.file, line.number * self._line_bytes, self._line_bytes)
            self._free.append(line.number)
            return
        for cache, _, row in self._rows(line):
            punch(self.file, row + start * cache.token_bytes, (stop - start) * cache.token_bytes)
