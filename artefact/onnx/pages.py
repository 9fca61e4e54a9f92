"""Memory that the system commits page by page as it is written, takes back, and maps from a file: Linux."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np

SUPPORTED = sys.platform == "linux" and sys.maxsize > 2**32
PAGE = mmap.PAGESIZE
_NO_RESERVE, _FIXED = 0x4000, 0x10
"""`MAP_NORESERVE`, which Python has from 3.13 on, and `MAP_FIXED`."""
PRIVATE = getattr(mmap, "MAP_PRIVATE", 0)
_EMPTY = PRIVATE | getattr(mmap, "MAP_ANONYMOUS", 0) | _NO_RESERVE
_FAILED = ctypes.c_void_p(-1).value
_MAX_MAPPINGS = Path("/proc/sys/vm/max_map_count")
_USUAL_MAX_MAPPINGS = 65_530


class Pages:
    """Zeros in this process's memory, of which only what was written takes any.

    All places are bytes from the beginning, in whole pages.
    """

    def __init__(self, nbytes: int) -> None:
        """Reserves addresses for `nbytes`.

        Raises:
            MemoryError: there are too few.
        """
        try:
            self._map = mmap.mmap(-1, nbytes, flags=_EMPTY)
        except (OSError, OverflowError):
            raise MemoryError(f"no addresses for {nbytes} bytes") from None
        self.bytes = np.frombuffer(self._map, np.uint8)
        self.address = int(self.bytes.ctypes.data)
        self._keep_small(0, nbytes)

    def drop(self, start: int, stop: int) -> None:
        """Gives back what lies between, which is zeros from then on."""
        self._map.madvise(mmap.MADV_DONTNEED, start, stop - start)

    def show(self, start: int, stop: int, file: int, offset: int) -> None:
        """Puts the bytes of a file from `offset` on there; writing copies a page, and leaves the file alone.

        Raises:
            OSError: the system has no room for another mapping.
        """
        replace_mapping(self.address + start, stop - start, PRIVATE, file, offset)

    def clear(self, start: int, stop: int) -> None:
        """Takes a file away again: zeros without memory."""
        replace_mapping(self.address + start, stop - start, _EMPTY, -1, 0)
        self._keep_small(start, stop)

    def _keep_small(self, start: int, stop: int) -> None:
        """Huge pages would commit 2 MiB for one token; a system without them refuses the word."""
        with suppress(OSError):
            self._map.madvise(mmap.MADV_NOHUGEPAGE, start, stop - start)


def replace_mapping(address: int, size: int, flags: int, file: int, offset: int) -> None:
    """Puts another mapping in the place of what this process has at an address, to read and to write.

    Raises:
        OSError: the system has no room for another mapping.
    """
    access = mmap.PROT_READ | mmap.PROT_WRITE
    if libc().mmap(address, size, access, flags | _FIXED, file, offset) == _FAILED:
        raise OSError(ctypes.get_errno(), "cannot map a file in the place of memory")


def max_mappings() -> int:
    """Returns how many mappings a process may have."""
    with suppress(OSError, ValueError):
        return int(_MAX_MAPPINGS.read_text())
    return _USUAL_MAX_MAPPINGS


def punch(file: int, offset: int, length: int) -> None:
    """Gives back a part of a file in memory; its size stays."""
    keep_size, punch_hole = 1, 2
    if libc().fallocate(file, keep_size | punch_hole, offset, length):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@cache
def libc() -> ctypes.CDLL:
    """Returns the C library, with the types of what is used of it."""
    found = ctypes.CDLL(None, use_errno=True)
    place, size, number, offset = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int64
    found.mmap.restype = place
    found.mmap.argtypes = [place, size, number, number, number, offset]
    found.fallocate.argtypes = [number, number, offset, offset]
    return found
