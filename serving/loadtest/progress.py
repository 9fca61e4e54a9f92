"""The progress of a load test on the terminal."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from lathe.serving.loadtest.load import Load
from lathe.serving.loadtest.measure import Round, summary


class Quiet:
    """Shows nothing; the default of the library functions."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def stage(self, text: str) -> None:
        """Announces a step before or after the load."""

    def start_round(self, name: str, load: Load) -> None:
        """Announces a round of `load` on the system `name`."""

    def request_done(self) -> None:
        """Counts a measured request that has ended."""

    def end_round(self, name: str, one: Round) -> None:
        """Announces the end of a round."""


class Terminal(Quiet):
    """A progress line with elapsed time and ETA, and one line per finished round, on stderr.

    `rounds` is the number of rounds; None: it is not known yet, and the ETA is that of the round. The line is
    redrawn only twice a second, because this process must not take the processor from a server beside it.
    """

    def __init__(self, rounds: int | None) -> None:
        console = Console(file=sys.stderr)
        self._rounds = rounds
        self._done = 0
        self._task: TaskID | None = None
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=2,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def stage(self, text: str) -> None:
        self._bar.console.print(text, highlight=False)

    def start_round(self, name: str, load: Load) -> None:
        """Shows a bar of all requests; where only time ends a round, a growing count."""
        total = load.requests * (self._rounds or 1) if load.requests else None
        if self._rounds is None and self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
        if self._task is None:
            self._task = self._bar.add_task("", total=total)
        self._bar.update(self._task, description=f"{self._round_name(self._done + 1)} {name}")

    def request_done(self) -> None:
        if self._task is not None:
            self._bar.advance(self._task)

    def end_round(self, name: str, one: Round) -> None:
        self._done += 1
        numbers = summary([one])
        failed = f", {numbers['failed']} failed" if numbers["failed"] else ""
        self.stage(
            f"{self._round_name(self._done)} {name}: {numbers['requests']} requests in "
            f"{numbers['duration_s']:.1f} s, {numbers['output_tokens_per_second']:.1f} output tokens/s"
            f"{failed}"
        )

    def _round_name(self, number: int) -> str:
        return f"round {number}" + (f"/{self._rounds}" if self._rounds else "")
