"""Bounded admission: which sequences wait, how many are unfinished, and whether new ones are accepted."""

from __future__ import annotations

import threading
from collections import abc, deque

from lathe.serving.backend import DrainingError, QueueFullError
from lathe.serving.scheduler.sequence import Sequence


class AdmissionQueue:
    """Holds waiting sequences and bounds the unfinished ones, waiting and running together, by `capacity`.

    Calls are served round-robin, one sequence each, in the order of their arrival: a call with many sequences
    does not delay the calls after it. All methods may be called from any thread.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._changed = threading.Condition()
        self._calls: deque[deque[Sequence]] = deque()
        self.num_waiting = 0
        self._num_unfinished = 0
        self._draining = False
        self.closed = False

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

    def add(self, sequences: abc.Sequence[Sequence]) -> None:
        """Accepts all sequences of one call, or none.

        Raises:
            QueueFullError: too many sequences are unfinished.
            DrainingError: no new sequences are accepted.
        """
        with self._changed:
            self.check_capacity(len(sequences))
            self._num_unfinished += len(sequences)
            self.num_waiting += len(sequences)
            if sequences:
                self._calls.append(deque(sequences))
            self._changed.notify_all()

    def pop(self, admits: abc.Callable[[Sequence], bool] = lambda _: True) -> Sequence | None:
        """Removes and returns the first sequence of the call whose turn it is; it stays unfinished.

        One that is not admitted keeps its turn: smaller ones that came later do not pass it by.
        """
        with self._changed:
            if not self._calls or not admits(self._calls[0][0]):
                return None
            call = self._calls.popleft()
            sequence = call.popleft()
            self.num_waiting -= 1
            if call:
                self._calls.append(call)
            return sequence

    def cancel(self, sequences: abc.Collection[Sequence]) -> list[Sequence]:
        """Removes and returns those of one call's sequences that still wait; they stay unfinished."""
        with self._changed:
            for call in self._calls:
                if call[-1] in sequences:
                    self._calls.remove(call)
                    self.num_waiting -= len(call)
                    return list(call)
            return []

    def release(self) -> None:
        """Counts one unfinished sequence less."""
        with self._changed:
            self._num_unfinished -= 1
            self._changed.notify_all()

    def wait_for_work(self) -> None:
        """Blocks until a sequence waits or the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self.num_waiting or self.closed)

    def drain(self, timeout: float) -> bool:
        """Accepts no new sequences and waits up to `timeout` seconds for the others.

        Returns:
            Whether all have finished.
        """
        with self._changed:
            self._draining = True
            return self._changed.wait_for(lambda: self._num_unfinished == 0, timeout)

    def close(self) -> None:
        """Accepts no new sequences and ends the scheduler's loop."""
        with self._changed:
            self._draining = self.closed = True
            self._changed.notify_all()
