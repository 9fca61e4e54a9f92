"""Progress for people (a live line with ETA on stderr) or for logs (one line per stage)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

from lathe.compressor.compute.device import DeviceMemory
from lathe.compressor.compute.peak_memory import PeakMemory


class Bar:
    """The counter of one stage. `advance` is cheap enough for inner loops."""

    def __init__(self, rich: RichProgress | None, task: TaskID) -> None:
        self._rich, self._task = rich, task

    def advance(self, steps: float = 1) -> None:
        if self._rich:
            self._rich.advance(self._task, steps)

    def note(self, text: str) -> None:
        if self._rich:
            self._rich.update(self._task, note=text)


class Progress:
    """Reports stages. `quiet` silences it; without a terminal every stage prints one line when it ends."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True, highlight=False, quiet=quiet)
        self.seconds: dict[str, float] = {}
        self.peaks: dict[str, int] = {}
        self.memory = PeakMemory()
        self.device: DeviceMemory | None = None
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        """Prints a warning once, even when quiet, and keeps it for the report."""
        if text not in self.warnings:
            self.warnings.append(text)
            Console(stderr=True, highlight=False).print(f"warning: {text}", soft_wrap=True, markup=False)

    def say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False)

    @contextmanager
    def stage(self, name: str, total: float) -> Iterator[Bar]:
        start = time.perf_counter()
        self.memory.start()
        if self.device:
            self.device.start()
        if self.console.is_terminal and not self.quiet:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            )
            with RichProgress(*columns, console=self.console, transient=True) as rich:
                yield Bar(rich, rich.add_task(name, total=total, note=""))
        else:
            yield Bar(None, TaskID(0))
        elapsed, peak = time.perf_counter() - start, self.memory.stage
        self.seconds[name] = self.seconds.get(name, 0.0) + elapsed
        self.peaks[name] = max(self.peaks.get(name, 0), peak)
        there = f", {self.device.end(name) / 2**20:.0f} MiB on {self.device.where}" if self.device else ""
        self.say(f"  {name}: {elapsed:.1f} s, peak memory {peak / 2**20:.0f} MiB{there}")
