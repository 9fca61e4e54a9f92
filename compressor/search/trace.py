"""Every candidate that was judged, as JSON lines: to plot, and to resume from."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Trace:
    """Appends judgements and remembers them. A search that starts again with the same seed asks for the
    same candidates, and gets the answers that are already on disk without computing them."""

    def __init__(self, path: Path) -> None:
        self._known: dict[str, float] = {}
        self.replayed = 0
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    row = json.loads(line)
                    self._known[row["key"]] = row["value"]
                except (ValueError, KeyError):
                    break
            path.write_text(
                "".join(json.dumps({"key": k, "value": v}) + "\n" for k, v in self._known.items())
            )
        self._path = path
        self._start = time.perf_counter()

    def judge(self, key: str, compute: Callable[[], float], **facts: Any) -> float:
        """The value under `key`, computed now or found on disk."""
        if key in self._known:
            self.replayed += 1
            return self._known[key]
        value = compute()
        self._known[key] = value
        seconds = round(time.perf_counter() - self._start, 3)
        with self._path.open("a") as file:
            file.write(json.dumps({"key": key, "value": value, "seconds": seconds, **facts}) + "\n")
        return value
