"""A Python module that runs stage by stage: between two of its stages all of its processes are stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.compress import process_tree, stop_at_stages

_PROGRAM = Path(stop_at_stages.__file__).read_text()
_SAMPLE_SECONDS = 0.05
_POLL_SECONDS = 0.001
_LAST_LINES = 20
_MISSED = 3
"""The exit status of `lathe compress` when the artefact is written and slower than the target."""


@dataclass(frozen=True)
class Segment:
    """What ran from the end of one stage to the end of the next; the time stopped is not in it.

    Attributes:
        title: the stage's own; None from the last stage to the end of the command.
        peak_bytes: the highest resident memory, as sampled; of the run so far where the system lets
            nobody start a peak anew.
    """

    title: str | None
    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class StagedProcess:
    """Starts with the first stage that is asked for; ends with its parent.

    Attributes:
        exit_status: None until it has ended.
        killed: whether `kill` ended it.
        peaks_reset: whether peaks are of segments, not of the run so far.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        directory: Path,
        environment: Mapping[str, str],
        log: Path,
    ) -> None:
        self.exit_status: int | None = None
        self.killed = False
        self.peaks_reset = True
        self.last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._command = [sys.executable, "-c", _PROGRAM, module, *arguments]
        self._directory, self._environment, self._log = directory, environment, log
        self._process: subprocess.Popen[str] | None = None
        self._cpu = 0.0

    def run_stage(self) -> Segment:
        """Runs to the end of the next stage and stops there, or to the end of the command."""
        start = time.perf_counter()
        if self._process is None:
            self._process = self._started()
        else:
            os.killpg(self._process.pid, signal.SIGCONT)
        with _PeakSampler(self._process.pid) as sampler:
            title = self._next_title(self._process)
            seconds = time.perf_counter() - start
            if title is None:
                os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
                seconds = time.perf_counter() - start
            else:
                self._stop(self._process)
        cpu, before = process_tree.cpu_seconds(self._process.pid), self._cpu
        self._cpu = cpu
        if title is None:
            self._close(self._process)
        else:
            self.peaks_reset &= process_tree.reset_peaks(self._process.pid)
        return Segment(title, seconds, cpu - before, sampler.highest)

    @property
    def failed(self) -> bool:
        """Whether it ended without an artefact; one that misses its target is one all the same."""
        return self.exit_status not in (None, 0, _MISSED)

    def kill(self) -> None:
        """Ends it, if it has not ended itself."""
        self.killed = self.exit_status is None
        if self._process is not None and self.killed:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._close(self._process)

    def _started(self) -> subprocess.Popen[str]:
        with self._log.open("w") as log:
            return subprocess.Popen(
                self._command,
                cwd=self._directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )

    def _next_title(self, process: subprocess.Popen[str]) -> str | None:
        assert process.stderr is not None
        for line in process.stderr:
            self.last_lines.append(line.rstrip("\n"))
            found = stop_at_stages.STAGE.match(line)
            if found:
                return found["title"]
        return None

    def _stop(self, process: subprocess.Popen[str]) -> None:
        """Returns when none of its processes runs: the one that ended a stage stops by itself."""
        while process_tree.running([process.pid]):
            time.sleep(_POLL_SECONDS)
        os.killpg(process.pid, signal.SIGSTOP)
        while process_tree.running(process_tree.members(process.pid)):
            time.sleep(_POLL_SECONDS)

    def _close(self, process: subprocess.Popen[str]) -> None:
        self.exit_status = process.wait()
        assert process.stderr is not None
        process.stderr.close()


class _PeakSampler(threading.Thread):
    """Reads the peak over and over: what a process forgets when it starts a peak anew has been seen."""

    def __init__(self, root: int) -> None:
        super().__init__(daemon=True)
        self.highest = 0
        self._root, self._ended = root, threading.Event()

    def run(self) -> None:
        while not self._ended.wait(_SAMPLE_SECONDS):
            self._look()

    def __enter__(self) -> _PeakSampler:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self.join()
        self._look()

    def _look(self) -> None:
        self.highest = max(self.highest, process_tree.peak_bytes(self._root))
