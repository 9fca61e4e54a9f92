"""Which sequences wait for an engine, and in which order they leave."""

from __future__ import annotations

from collections import abc, deque

from lathe.serving.backend import DrainingError
from lathe.serving.scheduler.admission import Admission
from lathe.serving.scheduler.sequence import Sequence


class AdmissionQueue:
    """Holds waiting sequences, as many as `admission` accepts.

    Calls are served round-robin, one sequence each, in the order of their arrival: a call with many sequences
    does not delay the calls after it. All methods may be called from any thread.
    """

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self._changed = admission.changed
        self._calls: deque[deque[Sequence]] = deque()
        self.num_waiting = 0
        self.closed = False

    def check_capacity(self, count: int) -> None:
        """Checks that `count` more sequences can be accepted now.

        Raises:
            QueueFullError: too many sequences are unfinished.
            DrainingError: no new sequences are accepted.
        """
        self._check_open()
        self.admission.check_capacity(count)

    def add(self, sequences: abc.Sequence[Sequence]) -> None:
        """Accepts all sequences of one call, or none.

        Raises:
            QueueFullError: too many sequences are unfinished.
            DrainingError: no new sequences are accepted.
        """
        with self._changed:
            self._check_open()
            self.admission.take(len(sequences))
            self.num_waiting += len(sequences)
            if sequences:
                self._calls.append(deque(sequences))
            self._changed.notify_all()

    def _check_open(self) -> None:
        if self.closed:
            raise DrainingError("the server is shutting down")

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
            self._changed.notify_all()
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

    def waiting_since(self) -> float | None:
        """Returns when the one whose turn it is arrived, by `time.perf_counter`; None where none waits."""
        with self._changed:
            return self._calls[0][0].request.arrived if self._calls else None

    def wait_for_work(self, admits: abc.Callable[[Sequence], bool]) -> None:
        """Blocks until the sequence whose turn it is may begin, or the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self.closed or (self._calls and admits(self._calls[0][0])))

    def close(self) -> None:
        """Accepts no new sequences and ends the scheduler's loop."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()
