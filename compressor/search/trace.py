"""Every candidate that was evaluated, as JSON lines, to plot and to resume from."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lathe.artefact.atomic_files import write_bytes


class Trace:
    """Appends evaluations and remembers them.

    A search that starts again with the same seed asks for the same candidates and gets the values that are
    already on disk without computing them.

    Attributes:
        asked: The number of all evaluations.
        replayed: The number of evaluations that were on disk.
    """

    def __init__(self, path: Path) -> None:
        self._known: dict[str, Mapping[str, Any]] = {}
        self.asked = self.replayed = 0
        if path.exists():
            self._recall(path)
        self._path = path
        self._start = time.perf_counter()

    def _recall(self, path: Path) -> None:
        """Reads an earlier trace; a line that a kill cut short is dropped with all that follow."""
        whole = []
        for line in path.read_text().splitlines():
            try:
                row = json.loads(line)
                float(row["value"])
                self._known[row["key"]] = row
            except (ValueError, KeyError, TypeError):
                break
            whole.append(line + "\n")
        write_bytes(path, "".join(whole).encode())

    def knows(self, key: str) -> bool:
        """Tells whether the value under `key` is on disk."""
        return key in self._known

    def evaluate(self, key: str, compute: Callable[[], float], **facts: Any) -> float:
        """Returns the value under `key`, computed now or found on disk."""
        value: float = self.record(key, lambda: (compute(), facts))["value"]
        return value

    def record(self, key: str, compute: Callable[[], tuple[float, Mapping[str, Any]]]) -> Mapping[str, Any]:
        """Returns the row under `key`: its `value`, and what else was found with it, for JSON."""
        self.asked += 1
        if key in self._known:
            self.replayed += 1
            return self._known[key]
        value, facts = compute()
        seconds = round(time.perf_counter() - self._start, 3)
        self._known[key] = row = {"key": key, "value": value, "seconds": seconds, **facts}
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        return row
