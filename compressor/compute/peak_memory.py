"""Memory of this process: peaks of what is resident by stage, and giving back what was freed."""

from __future__ import annotations

import ctypes
import re
import resource
import sys
from contextlib import suppress
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_MMAP_THRESHOLD = -3


def return_freed_memory_at_once() -> None:
    """Makes glibc return freed blocks of 1 MiB or more to the operating system."""
    with suppress(AttributeError, OSError):  # glibc's
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 2**20)


class PeakMemory:
    """The peak resident set, of the whole run and since the last `start`, in bytes.

    Linux can start a peak anew; elsewhere a stage's peak is that of the run so far.
    """

    def __init__(self) -> None:
        self._before = 0

    def start(self) -> None:
        """Starts a stage; memory that earlier stages freed is given back to the system."""
        self._before = self.run
        with suppress(AttributeError, OSError):  # glibc's
            ctypes.CDLL(None).malloc_trim(0)
        with suppress(OSError):
            _CLEAR.write_text("5")

    @property
    def stage(self) -> int:
        """The peak since the last `start`."""
        return _high_water()

    @property
    def run(self) -> int:
        """The peak since the process began."""
        return max(self._before, _high_water())


def _high_water() -> int:
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
