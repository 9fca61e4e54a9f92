"""The resident memory of this process, in which a shared page counts once."""

from __future__ import annotations

import re
from pathlib import Path

import psutil

_SHARED = re.compile(r"^RssShmem:\s+(\d+) kB$", re.MULTILINE)


def resident_bytes(shared: int, status: Path = Path("/proc/self/status")) -> int:
    """Returns the resident bytes; `shared` is what its files in memory take.

    The system counts a page of such a file once for every slot that maps it, and not at all while none does.
    """
    resident = int(psutil.Process().memory_info().rss)
    if not shared:
        return resident
    found = _SHARED.search(status.read_text())
    return resident - (int(found[1]) * 1024 if found else 0) + shared
