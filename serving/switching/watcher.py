"""Tells a controller what an engine tells its metrics."""

from __future__ import annotations

import threading

from lathe.serving.backend import Observer
from lathe.serving.switching.controller import SwitchController


class Watcher:
    """The observer of one subnet's engine; `lock` guards the controller, which several engines have."""

    def __init__(self, metrics: Observer, controller: SwitchController, lock: threading.Lock) -> None:
        self._metrics, self._controller, self._lock = metrics, controller, lock

    def admitted(self, queued: float) -> None:
        self._metrics.admitted(queued)
        with self._lock:
            self._controller.queued(queued)

    def prompt(self, tokens: int) -> None:
        self._metrics.prompt(tokens)

    def prefix(self, asked: int, found: int) -> None:
        self._metrics.prefix(asked, found)

    def first_token(self, since_arrival: float) -> None:
        self._metrics.first_token(since_arrival)
        with self._lock:
            self._controller.first_token(since_arrival)

    def next_token(self, since_last: float) -> None:
        self._metrics.next_token(since_last)
        with self._lock:
            self._controller.token(since_last)

    def finished(self, per_token: float | None) -> None:
        self._metrics.finished(per_token)
        if per_token is not None:
            with self._lock:
                self._controller.answered(per_token)
