"""A worker process, from outside."""

from __future__ import annotations

import json
import os
import select
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks.serving.rival import Rival

ROOT = Path(__file__).parents[2]
_ANSWER_SECONDS, _STOP_SECONDS = 900.0, 10.0
_THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class FailedError(Exception):
    """A rival that is not installed, or that could not do what it was asked; says why."""


class Worker:
    """A rival's process; `log` takes what it prints.

    Raises:
        FailedError: there is no such interpreter.
    """

    def __init__(self, name: str, rival: Rival, python: str, threads: int, log: Path) -> None:
        interpreter = ROOT / python
        if not interpreter.exists():
            raise FailedError(f"not installed: there is no {python}")
        environment = os.environ | dict.fromkeys(_THREAD_SETTINGS, str(threads)) | dict(rival.environment)
        self._log = log
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                [interpreter, "-m", "benchmarks.serving.worker", name],
                cwd=ROOT,
                env=environment,
                text=True,
                bufsize=1,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
            )

    def ask(self, do: str, **what: Any) -> dict[str, Any]:
        """What the worker answers.

        Raises:
            FailedError: an error of the rival, its end, or no answer within a quarter of an hour.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(json.dumps({"do": do, **what}) + "\n")
            answered = bool(select.select([stdout], [], [], _ANSWER_SECONDS)[0])
        except BrokenPipeError:
            answered = True
        line = stdout.readline() if answered else ""
        if not line:
            raise FailedError(f"{do}: no answer; the last it printed: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise FailedError(f"{do}: {answer['error'].splitlines()[0]}")
        return answer

    def cpu_seconds(self) -> float:
        """Of the process and those it started, so far."""
        return sum(sum(process.cpu_times()[:2]) for process in self._processes())

    def resident_bytes(self) -> int:
        return sum(process.memory_info().rss for process in self._processes())

    def close(self) -> None:
        """The end of its input ends it; if not soon, it is killed."""
        with self._process as process:
            if process.stdin is not None:
                with suppress(BrokenPipeError):
                    process.stdin.close()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()

    def _processes(self) -> list[psutil.Process]:
        own = psutil.Process(self._process.pid)
        return [own, *own.children(recursive=True)]

    def _last_words(self) -> str:
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return " / ".join(lines[-2:])[-400:] or "nothing"
