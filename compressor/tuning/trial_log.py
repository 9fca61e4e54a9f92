"""A line for each trial, and the time that is left."""

from __future__ import annotations

from dataclasses import dataclass, field

from lathe.compressor.compute.progress import Bar, Progress
from lathe.compressor.tuning.search import Search
from lathe.compressor.tuning.study import Record, records


@dataclass
class TrialLog:
    """Tells of trials as they end.

    Attributes:
        progress: Shows the lines.
        trials: The trials in all; None for any number.
        seconds: What all trials may take; None for any time.
        bar: The counter of trials.
    """

    progress: Progress
    trials: int | None
    seconds: float | None
    bar: Bar | None = None
    _done: int = field(init=False, default=0)
    _spent: float = field(init=False, default=0.0)
    _best: float | None = field(init=False, default=None)

    def resumed(self, search: Search) -> None:
        """Takes over the trials of earlier commands."""
        known = [r for r in records(search.study) if r.state != "running" and not r.repeated]
        for record in known:
            self._count(record)
        if known:
            self.progress.say(f"resuming after {len(known)} trials")

    def __call__(self, record: Record) -> None:
        """Tells of a trial."""
        number = self._done
        self._count(record)
        values = ", ".join(f"{name} {value}" for name, value in record.facts["values"].items())
        best = "" if self._best is None else f"; best {self._best:+.4f}"
        self.progress.say(
            f"  trial {number}: {_outcome(record)} ({values}), {record.seconds:.0f} s{best}{self._left()}"
        )
        if self.bar:
            self.bar.advance()
            self.bar.note(best.removeprefix("; "))

    def _count(self, record: Record) -> None:
        self._done += 1
        self._spent += record.seconds
        if record.loss is not None:
            self._best = record.loss if self._best is None else min(self._best, record.loss)

    def _left(self) -> str:
        """Returns the seconds that the trials to come will take, at the pace of those so far."""
        ends = [] if self.seconds is None else [self.seconds - self._spent]
        if self.trials is not None:
            ends.append((self.trials - self._done) * self._spent / self._done)
        return f"; about {max(0.0, min(ends)):.0f} s left" if ends else ""


def _outcome(record: Record) -> str:
    if record.state == "failed":
        return f"failed, {record.facts['error']}"
    if record.state == "dropped":
        return f"dropped at {record.first:+.4f} on fewer tokens"
    return f"loss {record.loss:+.4f}"
