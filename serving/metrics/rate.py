"""The current rate of token generation."""

from __future__ import annotations

import threading
import time
from collections import deque

RATE_WINDOW_S = 10


class TokenRate:
    """Tokens per second over the last `RATE_WINDOW_S` seconds, counted in tenths of a second."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: deque[tuple[int, int]] = deque()

    def add(self, tokens: int = 1) -> None:
        tenth = int(time.monotonic() * 10)
        with self._lock:
            if self._counts and self._counts[-1][0] == tenth:
                tenth, count = self._counts.pop()
                self._counts.append((tenth, count + tokens))
            else:
                self._counts.append((tenth, tokens))
            self._forget(tenth)

    def per_second(self) -> float:
        with self._lock:
            self._forget(int(time.monotonic() * 10))
            return sum(count for _, count in self._counts) / RATE_WINDOW_S

    def _forget(self, now: int) -> None:
        while self._counts and self._counts[0][0] <= now - 10 * RATE_WINDOW_S:
            self._counts.popleft()
