"""A server started here for the length of a test, and always stopped."""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import IO, NoReturn

from lathe.artefact.errors import UserError

SERVE = (sys.executable, "-m", "lathe", "serve")
STOP_SECONDS = 40.0


@dataclass(frozen=True)
class RunningServer:
    """A started server: its address, the model's name, and its process."""

    url: str
    model: str
    pid: int


@contextlib.contextmanager
def served(
    directory: Path,
    command: Sequence[str] = SERVE,
    extra: Sequence[str] = (),
    ready_s: float = 600.0,
) -> Iterator[RunningServer]:
    """Serves `directory` on a free local port while the body runs.

    `command` is the serve command, called with the directory, `--port 0 --json` and `extra`; its
    first event line on stdout must say that it is ready, and where.

    Raises:
        UserError: it ends, or says nothing for `ready_s` seconds, before it is ready.
    """
    line = [*command, str(directory), "--port", "0", "--json", *extra]
    with tempfile.TemporaryFile() as log, _quick_exit_on_terminate():
        # A session of its own: Ctrl-C in the terminal reaches this process only, which stops the server.
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=log, start_new_session=True)
        try:
            yield _await_ready(process, directory, log, ready_s)
        finally:
            _stop(process)


def _await_ready(
    process: subprocess.Popen[bytes], directory: Path, log: IO[bytes], ready_s: float
) -> RunningServer:
    lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    threading.Thread(target=_drain, args=(process, lines), daemon=True).start()
    deadline = monotonic() + ready_s
    while (left := deadline - monotonic()) > 0:
        try:
            line = lines.get(timeout=left)
        except queue.Empty:
            break
        if line is None:
            raise UserError(f"The server of {directory} ended before it was ready: {_last_words(log)}")
        if ready := _ready_event(line):
            return RunningServer(*ready, process.pid)
    raise UserError(f"The server of {directory} was not ready after {ready_s:g} s: {_last_words(log)}")


def _drain(process: subprocess.Popen[bytes], lines: queue.SimpleQueue[bytes | None]) -> None:
    """Passes on what the server prints, to its end, so that it never blocks on a full pipe."""
    if process.stdout is not None:
        with process.stdout as stdout:
            for line in stdout:
                lines.put(line)
    lines.put(None)


def _ready_event(line: bytes) -> tuple[str, str] | None:
    try:
        event = json.loads(line)
        if event["event"] == "ready":
            return str(event["url"]).rstrip("/").removesuffix("/v1"), str(event["model"])
    except (ValueError, LookupError, TypeError):
        return None
    return None


def _last_words(log: IO[bytes]) -> str:
    """The error line that the server ended with, or else the last lines it printed."""
    log.seek(0)
    lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    if lines and lines[-1].lower().startswith("error"):
        return lines[-1]
    return " / ".join(lines[-4:])[-1000:] or "it printed no error"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Asks the server to end, waits, and only then forces it. A second Ctrl-C forces it at once."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt, SystemExit):
        process.kill()
        process.wait()


@contextlib.contextmanager
def _quick_exit_on_terminate() -> Iterator[None]:
    """Lets SIGTERM unwind this process like Ctrl-C does, so that no server outlives it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
