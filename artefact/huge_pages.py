"""Private memory in huge pages: a decode step reads all weights, and then walks fewer page tables.

By default (`madvise`), Linux gives huge pages only to programs that ask, and ONNX Runtime does not ask.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

_SETTINGS = Path("/sys/kernel/mm/transparent_hugepage")
_MAPS, _PAGES = Path("/proc/self/maps"), Path("/proc/self/pagemap")
_COLLAPSE = 25
"""`MADV_COLLAPSE` of Linux 6.1."""
_RESIDENT = 0.9
"""Of a huge page's memory, that has to be in use already, as the rest is taken, too."""
_ENTRY = 8
"""Bytes of `/proc/self/pagemap` for a page; the highest bit says that it is in memory."""


@contextmanager
def huge_pages() -> Iterator[None]:
    """Moves private memory that the block takes into huge pages, where nearly all of one is in use.

    Nothing happens where the system has no `MADV_COLLAPSE` (Linux before 6.1, others), or where its
    administrator has switched huge pages off (`never`).
    """
    size = huge_page_bytes()
    if not size:
        yield
        return
    before = _places_in_use(size)
    yield
    collapse(_places_in_use(size) - before, size)


def huge_page_bytes() -> int:
    """Returns the size of a huge page, 0 where there are none to be had."""
    if sys.platform != "linux" or sys.maxsize < 2**32:
        return 0
    try:
        never = "[never]" in (_SETTINGS / "enabled").read_text()
        return 0 if never else int((_SETTINGS / "hpage_pmd_size").read_text())
    except (OSError, ValueError):
        return 0


def _places_in_use(size: int) -> set[int]:
    """Returns the addresses of aligned places of `size` bytes that are private and nearly all in memory."""
    page = os.sysconf("SC_PAGE_SIZE")
    each = size // page
    found: set[int] = set()
    with suppress(OSError, ValueError), _PAGES.open("rb", buffering=0) as pages:
        for first, last in private_memory():
            places = range(-(-first // size) * size, last - size + 1, size)
            if not places:
                continue
            entries = os.pread(pages.fileno(), len(places) * each * _ENTRY, places[0] // page * _ENTRY)
            in_memory = np.frombuffer(entries, np.uint64).reshape(-1, each) >> np.uint64(63)
            found.update(places[index] for index in np.flatnonzero(in_memory.mean(axis=1) >= _RESIDENT))
    return found


def private_memory() -> Iterator[tuple[int, int]]:
    """Yields the first address, and the one after the last, of each writable private mapping of no file."""
    for line in _MAPS.read_text().splitlines():
        addresses, permissions, _, _, inode, *_ = line.split()
        if permissions == "rw-p" and inode == "0":
            first, last = addresses.split("-")
            yield int(first, 16), int(last, 16)


def collapse(places: Iterable[int], size: int) -> None:
    """Asks for huge pages; the system may refuse any of them: memory is fragmented, or its kernel is old."""
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for place in sorted(places):
        madvise(place, size, _COLLAPSE)
