"""Bounded admission: how many sequences are unfinished, and whether new ones are accepted."""

from __future__ import annotations

import threading

from lathe.serving.backend import DrainingError, QueueFullError
from lathe.serving.scheduler.turns import Turns


class Admission:
    """Bounds the unfinished sequences, waiting and running together, of one engine, or of several together.

    All methods may be called from any thread.

    Attributes:
        capacity: the most unfinished sequences.
        turns: held by an engine for each step, so that those of one process share the processor.
        changed: held while anything here or in a queue changes, and notified of it.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.changed = threading.Condition()
        self.turns = Turns()
        self._num_unfinished = 0
        self._draining = False

    def check_capacity(self, count: int) -> None:
        """Checks that `count` more sequences can be accepted now.

        Raises:
            QueueFullError: too many sequences are unfinished.
            DrainingError: no new sequences are accepted.
        """
        if self._draining:
            raise DrainingError("the server is shutting down")
        if self._num_unfinished + count > self.capacity:
            raise QueueFullError(
                f"the server already holds {self._num_unfinished} of {self.capacity} sequences"
            )

    def take(self, count: int) -> None:
        """Counts so many unfinished sequences more.

        Raises:
            QueueFullError: too many sequences are unfinished.
            DrainingError: no new sequences are accepted.
        """
        with self.changed:
            self.check_capacity(count)
            self._num_unfinished += count

    def release(self) -> None:
        """Counts one unfinished sequence less."""
        with self.changed:
            self._num_unfinished -= 1
            self.changed.notify_all()

    def drain(self, timeout: float) -> bool:
        """Accepts no new sequences and waits up to `timeout` seconds for the others.

        Returns:
            Whether all have finished.
        """
        with self.changed:
            self._draining = True
            return self.changed.wait_for(lambda: self._num_unfinished == 0, timeout)
