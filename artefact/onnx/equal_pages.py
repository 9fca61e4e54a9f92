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


@dataclass(frozen=True)
class _Run:
    """Consecutive pages that are equal to other consecutive ones."""

    address: int
    source: int
    pages: int


class EqualPages:
    """Finds equal pages in memory that is taken within a `with` block; what is kept once stays so after it.

    Only weights may be written to the memory meanwhile, and only before `merge`.

    Attributes:
        saved: The bytes that were given back so far.
    """

    def __init__(self) -> None:
        self.saved = 0
        self._known: dict[bytes, int] = {}
        self._offsets: dict[int, int] = {}
        self._end = 0

    def __enter__(self) -> Self:
        """Begins: large blocks of memory lie at the same place of a page."""
        if SUPPORTED:
            self._file = os.memfd_create("lathe-equal-pages")
            self._memory = os.open("/proc/self/mem", os.O_RDONLY)
            self._buffer = bytearray(b"\1" * (_READ * PAGE))  # before the first look, so never a candidate
            _set_thresholds(_APART, _KEPT)
            self._seen = _in_memory()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends; the file's memory goes into huge pages."""
        if SUPPORTED:
            _set_thresholds(_LARGEST, _KEPT)
            _into_huge_pages(self._file, self._end)
            os.close(self._memory)
            os.close(self._file)
            self._known.clear()
            self._offsets.clear()

    def merge(self) -> None:
        """Keeps once what is equal in memory that was taken since the last call, and before."""
        if not SUPPORTED:
            return
        now = _in_memory()
        new = np.setdiff1d(now, self._seen, assume_unique=True).tolist()
        equal: list[tuple[int, int]] = []
        for address, digest in self._digests(new):
            source = self._known.setdefault(digest, address)
            if source != address:
                equal.append((address, source))
        for run in _runs(equal, self._offsets):
            self._join(run)
        self._seen = np.union1d(self._seen, now)

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
        size = run.pages * PAGE
        with suppress(OSError):  # given back meanwhile, or too many mappings
            if not self._equal(run.address, run.source, size):
                return
            if run.source not in self._offsets:
                self._move(run.source, size)
            replace_mapping(run.address, size, PRIVATE, self._file, self._offsets[run.source])
            self.saved += size

    def _move(self, address: int, size: int) -> None:
        """Puts memory into the file, and the file in its place."""
        offset = self._end + (address - self._end) % _COALESCED
        self._store(address, size, offset)
        replace_mapping(address, size, PRIVATE, self._file, offset)
        self._end = offset + size
        self._offsets.update((address + place, offset + place) for place in range(0, size, PAGE))

    def _equal(self, one: int, other: int, size: int) -> bool:
        """Returns whether two places have the same bytes now."""
        for start in range(0, size, len(self._buffer)):
            count = min(len(self._buffer), size - start)
            if self._read(one + start, count) != os.pread(self._memory, count, other + start):
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

    def _store(self, address: int, size: int, offset: int) -> None:
        for start in range(0, size, len(self._buffer)):
            part = self._read(address + start, min(len(self._buffer), size - start))
            os.pwrite(self._file, part, offset + start)


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


def _in_memory() -> np.ndarray:
    """Returns the addresses of this process's private pages of no file that are in memory, ascending."""
    found = []
    pages = os.open("/proc/self/pagemap", os.O_RDONLY)
    try:
        for first, last in private_memory():
            entries = os.pread(pages, (last - first) // PAGE * _ENTRY, first // PAGE * _ENTRY)
            found.append(first + PAGE * np.flatnonzero(np.frombuffer(entries, np.uint64) >> np.uint64(63)))
    finally:
        os.close(pages)
    return np.concatenate(found) if found else np.empty(0, np.int64)


def _runs(equal: Sequence[tuple[int, int]], offsets: dict[int, int]) -> Iterator[_Run]:
    """Yields the runs of pages that are equal to runs, those of few pages left out.

    Args:
        equal: (address, that of a page that is equal to it), by ascending address.
        offsets: The places in the file of pages that are in it.
    """
    part: list[tuple[int, int]] = []
    for pair in [*equal, (0, 0)]:
        if part and not _follow(part[-1], pair, offsets):
            if len(part) >= _LEAST:
                yield _Run(*part[0], len(part))
            part = []
        part.append(pair)


def _follow(before: tuple[int, int], after: tuple[int, int], offsets: dict[int, int]) -> bool:
    """Returns whether pages, what they are equal to, and the places of that in the file are consecutive."""
    first, second = offsets.get(before[1]), offsets.get(after[1])
    stored = second is None if first is None else second == first + PAGE
    return after[0] - before[0] == after[1] - before[1] == PAGE and stored


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
