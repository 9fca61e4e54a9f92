"""Bounded admission: who waits, how many are inside, and whether anybody is let in at all."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

from lathe.serving.backend import DrainingError, QueueFullError
from lathe.serving.scheduler.sequence import Sequence as Running


class AdmissionQueue:
    """At most `capacity` sequences inside, waiting and running together. Calls take turns, one sequence each,
    in the order in which they came: a call of many does not hold up those after it.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._changed = threading.Condition()
        self._calls: deque[deque[Running]] = deque()
        self.waiting = 0
        self._inside = 0
        self._draining = False
        self.closed = False

    def check_room(self, count: int) -> None:
        """Raise NoRoomError or DrainingError when `count` sequences cannot enter now."""
        if self._draining:
            raise DrainingError("the server is shutting down")
        if self._inside + count > self.capacity:
            raise QueueFullError(f"the server already holds {self._inside} of {self.capacity} sequences")

    def enter(self, sequences: Sequence[Running]) -> None:
        """All or none. Raises NoRoomError or DrainingError."""
        with self._changed:
            self.check_room(len(sequences))
            self._inside += len(sequences)
            self.waiting += len(sequences)
            if sequences:
                self._calls.append(deque(sequences))
            self._changed.notify_all()

    def next(self) -> Running | None:
        """The first of the call whose turn it is, if any; it stays inside."""
        with self._changed:
            if not self._calls:
                return None
            call = self._calls.popleft()
            sequence = call.popleft()
            self.waiting -= 1
            if call:
                self._calls.append(call)
            return sequence

    def withdraw(self, sequences: Sequence[Running]) -> None:
        """Let those of `sequences` that still wait go."""
        with self._changed:
            for call in [call for call in self._calls if call[-1] in sequences]:
                self._calls.remove(call)
                self.waiting -= len(call)
                self._inside -= len(call)
            self._changed.notify_all()

    def left(self) -> None:
        """One that had been taken from the queue is done."""
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    def wait_for_work(self) -> None:
        """Block until somebody waits or the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self.waiting or self.closed)

    def drain(self, timeout: float) -> bool:
        """Let nobody in any more; wait up to `timeout` seconds until all are out."""
        with self._changed:
            self._draining = True
            return self._changed.wait_for(lambda: self._inside == 0, timeout)

    def close(self) -> None:
        """Let nobody in any more, and send the scheduler home."""
        with self._changed:
            self._draining = self.closed = True
            self._changed.notify_all()
