"""The clocks that timing reads: the wall's, and what the operating system knows of this process."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass


def _waits() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw


@dataclass(frozen=True)
class Clock:
    """Clocks, and a counter.

    Attributes:
        wall: Seconds on the wall, which timings are of.
        cpu: Seconds of processor time of all threads of this process. They tell which timings another process
            disturbed.
        waits: How often a thread of this process gave the processor up of its own accord, to wait.
    """

    wall: Callable[[], float] = time.perf_counter
    cpu: Callable[[], float] = time.process_time
    waits: Callable[[], int] = _waits


SYSTEM = Clock()
"""The machine's own clocks."""
