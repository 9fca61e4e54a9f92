"""Values of the last few seconds."""

from __future__ import annotations

import math
from collections import deque


class SlidingWindow:
    """Keeps values for some seconds. Not thread-safe."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._values: deque[tuple[float, float]] = deque()
        self._sum = 0.0

    def add(self, now: float, value: float) -> None:
        """Keeps a value that was seen at `now`."""
        self._values.append((now, value))
        self._sum += value

    def clear(self) -> None:
        """Forgets all values."""
        self._values.clear()
        self._sum = 0.0

    def mean(self, now: float, least: int = 1) -> float:
        """Returns the mean of what is kept; 0 where that is fewer than `least` values."""
        self._forget(now)
        return self._sum / len(self._values) if len(self._values) >= least else 0.0

    def quantile(self, now: float, share: float, least: int = 1) -> float:
        """Returns the smallest value that `share` of those kept do not exceed; 0 for fewer than `least`."""
        self._forget(now)
        ordered = sorted(value for _, value in self._values)
        return ordered[math.ceil(share * len(ordered)) - 1] if len(ordered) >= least else 0.0

    def _forget(self, now: float) -> None:
        while self._values and self._values[0][0] < now - self._seconds:
            self._sum -= self._values.popleft()[1]
        if not self._values:
            self._sum = 0.0
