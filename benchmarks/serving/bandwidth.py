"""How fast this machine reads memory now: what no decode step can beat."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

_LEAST = 2**30
_REPEATS = 3


class Reader:
    """Reads `threads` parts of a buffer at a time, each by a dot product with itself."""

    def __init__(self, threads: int) -> None:
        self.buffer_bytes = max(_LEAST, 2 * _last_level_cache())
        self._values = torch.ones(self.buffer_bytes // 4)
        self._pool = ThreadPoolExecutor(threads)
        self._threads = threads

    def bytes_per_second(self, count: int | None = None) -> float:
        """Of the best of three reads of the first `count` bytes [default: all, more than the caches hold].

        The same bytes are read each time, so that caches help as they help a model of that size.
        """
        values = self._values[: count // 4] if count else self._values
        parts = values.chunk(self._threads)
        torch.set_num_threads(1)
        times = []
        for _ in range(_REPEATS):
            start = time.perf_counter()
            list(self._pool.map(lambda part: torch.dot(part, part), parts))
            times.append(time.perf_counter() - start)
        return 4 * len(values) / min(times)


def _last_level_cache() -> int:
    """Bytes, 0 where the system does not tell."""
    folder = Path("/sys/devices/system/cpu/cpu0/cache")
    sizes = [file.read_text().strip() for file in folder.glob("index*/size")]
    return max((int(size[:-1]) * 1024 for size in sizes if size.endswith("K")), default=0)
