"""Equal pages of this process's memory, kept once: a map of one file in memory in the place of each.

Engines copy weights into layouts of their own, one copy for each session. Where two sessions' matrices are
equal, or one is the first rows of the other, so are pages of these copies: they are found by their content.
Whoever writes to such a page gets a copy of it. Linux alone; elsewhere nothing happens.

Only pages that are equal to others are touched: they hold weights, which nobody writes to meanwhile.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

import numpy as np

from lathe.artefact.huge_pages import collapse, huge_page_bytes, private_memory
from lathe.artefact.onnx.pages import PAGE, PRIVATE, SUPPORTED, libc, replace_mapping

_LEAST = 16
"""Pages of a mapping at least: a process may have some 65,000 mappings."""
_READ = 256
"""Pages that are read at a time."""
_COALESCED = 16 << 10
"""Processors keep neighbouring pages in one entry of their tables where addresses and memory are aligned."""
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
"""What `mallopt` calls the size of a block from which it has a mapping of its own, and what is given back."""
_APART, _LARGEST, _KEPT = 64 << 10, 32 << 20, 64 << 20
"""A threshold while memory is taken that may be equal, and, afterwards, those that a process arrives at."""
_ENTRY = 8
"""Bytes of `/proc/self/pagemap` for a page; the highest bit says that it is in memory."""


Place = tuple[bool, int]
"""Of a page: whether it is in the file, and its offset there, or else its address."""


@dataclass(frozen=True)
class _Run:
    """Consecutive pages that are equal to other consecutive ones."""

    address: int
    source: Place
    digests: Sequence[bytes]

    @property
    def size(self) -> int:
        """Its bytes."""
        return len(self.digests) * PAGE


class EqualPages:
    """Finds equal pages of this process's private memory within a `with` block; they stay so after it.

    Meanwhile nothing but the block runs in this process.

    Attributes:
        saved: The bytes that were given back so far.
    """

    def __init__(self) -> None:
        self.saved = 0
        self._filed: dict[bytes, int] = {}
        self._end = 0

    def __enter__(self) -> Self:
        """Begins: large blocks of memory lie at the same place of a page."""
        if SUPPORTED:
            self._file = os.memfd_create("lathe-equal-pages")
            self._memory = os.open("/proc/self/mem", os.O_RDONLY)
            self._buffer = mmap.mmap(-1, _READ * PAGE)
            _set_thresholds(_APART, _KEPT)
        return self

    def __exit__(self, *_: object) -> None:
        """Ends; the file's memory goes into huge pages."""
        if SUPPORTED:
            _set_thresholds(_LARGEST, _KEPT)
            _into_huge_pages(self._file, self._end)
            os.close(self._memory)
            os.close(self._file)
            self._filed.clear()

    def merge(self) -> None:
        """Keeps once what is equal in memory now."""
        if not SUPPORTED:
            return
        known: dict[bytes, int] = {}
        equal: list[tuple[int, Place, bytes]] = []
        for address, digest in self._digests(_in_memory()):
            if digest in self._filed:
                equal.append((address, (True, self._filed[digest]), digest))
            elif (source := known.setdefault(digest, address)) != address:
                equal.append((address, (False, source), digest))
        for run in _runs(equal):
            self._join(run)

    def _digests(self, pages: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """Yields the addresses and digests of pages that are not empty."""
        view, empty = memoryview(self._buffer), _digest(bytes(PAGE))
        for run in _consecutive(pages):
            start = 0
            while start < len(run):
                asked = view[: (len(run) - start) * PAGE]
                count = 0
                with suppress(OSError):  # given back meanwhile
                    count = os.preadv(self._memory, [asked], run[start]) // PAGE
                for number in range(count):
                    digest = _digest(view[number * PAGE : (number + 1) * PAGE])
                    if digest != empty:
                        yield run[start + number], digest
                start += max(count, 1)

    def _join(self, run: _Run) -> None:
        """Puts the file in the place of a run, and, where they are not in it yet, of those it is equal to."""
        filed, source = run.source
        if run.digests[0] in self._filed:  # since this run was found
            filed, source = True, self._filed[run.digests[0]]
        with suppress(OSError):  # given back meanwhile, or too many mappings
            if not self._same(run.address, self._file if filed else self._memory, source, run.size):
                return
            if not filed:
                source = self._move(source, run)
            replace_mapping(run.address, run.size, PRIVATE, self._file, source)
            self.saved += run.size

    def _move(self, address: int, run: _Run) -> int:
        """Puts memory into the file, and the file in its place; returns its offset."""
        offset = self._end + (address - self._end) % _COALESCED
        for start in range(0, run.size, len(self._buffer)):
            part = self._read(address + start, min(len(self._buffer), run.size - start))
            os.pwrite(self._file, part, offset + start)
        replace_mapping(address, run.size, PRIVATE, self._file, offset)
        self._end = offset + run.size
        self._filed.update((digest, offset + n * PAGE) for n, digest in enumerate(run.digests))
        return offset

    def _same(self, address: int, file: int, offset: int, size: int) -> bool:
        """Returns whether memory has the bytes of a file, or of memory as a file, from an offset on."""
        for start in range(0, size, len(self._buffer)):
            count = min(len(self._buffer), size - start)
            if self._read(address + start, count) != os.pread(file, count, offset + start):
                return False
        return True

    def _read(self, address: int, size: int) -> memoryview:
        """Reads so many bytes into the buffer.

        Raises:
            OSError: they are not all in memory.
        """
        view = memoryview(self._buffer)[:size]
        if os.preadv(self._memory, [view], address) != size:
            raise OSError(errno.EFAULT, "memory was given back")
        return view


def _into_huge_pages(file: int, size: int) -> None:
    """Moves a file in memory into huge pages, where the system has some."""
    huge = huge_page_bytes()
    if not huge or not size:
        return
    whole = -(-size // huge) * huge
    os.ftruncate(file, whole)
    with mmap.mmap(-1, whole + huge) as space:
        first = np.frombuffer(space, np.uint8).ctypes.data
        aligned = -(-first // huge) * huge
        replace_mapping(aligned, whole, mmap.MAP_SHARED, file, 0)
        collapse(range(aligned, aligned + whole, huge), huge)


def _in_memory() -> list[int]:
    """Returns the addresses of this process's private pages of no file that are in memory, ascending."""
    found: list[int] = []
    pages = os.open("/proc/self/pagemap", os.O_RDONLY)
    try:
        for first, last in private_memory():
            entries = os.pread(pages, (last - first) // PAGE * _ENTRY, first // PAGE * _ENTRY)
            there = np.flatnonzero(np.frombuffer(entries, np.uint64) >> np.uint64(63))
            found += (first + PAGE * there).tolist()
    finally:
        os.close(pages)
    return found


def _runs(equal: Sequence[tuple[int, Place, bytes]]) -> Iterator[_Run]:
    """Yields the runs of pages that are equal to runs, those of few pages left out.

    Args:
        equal: (address, place of a page that is equal to it, digest of both), by ascending address.
    """
    part: list[tuple[int, Place, bytes]] = []
    for page in [*equal, (0, (False, 0), b"")]:
        if part and not _follow(part[-1], page):
            if len(part) >= _LEAST:
                address, source, _ = part[0]
                yield _Run(address, source, [digest for _, _, digest in part])
            part = []
        part.append(page)


def _follow(before: tuple[int, Place, bytes], after: tuple[int, Place, bytes]) -> bool:
    """Returns whether pages, and those that they are equal to, are consecutive."""
    (at, (filed, source), _), (next_at, next_source, _) = before, after
    return next_at == at + PAGE and next_source == (filed, source + PAGE)


def _consecutive(pages: Sequence[int]) -> Iterator[Sequence[int]]:
    """Yields the parts of ascending addresses that have no gaps."""
    first = 0
    for number in range(1, len(pages) + 1):
        if number == len(pages) or pages[number] != pages[number - 1] + PAGE:
            yield pages[first:number]
            first = number


def _digest(content: bytes | memoryview) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _set_thresholds(apart: int, kept: int) -> None:
    """Tells glibc which blocks get mappings of their own and what it keeps; it gives back what is free."""
    with suppress(AttributeError):
        libc().mallopt(_MMAP_THRESHOLD, apart)
        libc().mallopt(_TRIM_THRESHOLD, kept)
        libc().malloc_trim(0)
