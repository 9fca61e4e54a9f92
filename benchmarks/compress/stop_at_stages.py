"""Runs a Python module that stops its own process where it ends a stage; given to `python -c` as it is.

    python -c "$(cat stop_at_stages.py)" MODULE [ARGUMENT ...]

A stage ends with the line of `lathe compress` on a stderr that is no terminal. The process stops when the
line is written, before it goes on, however late a reader comes; SIGCONT continues it. When its parent ends,
Linux kills it: stopped, it would stay for ever. It imports nothing of this repository.
"""

from __future__ import annotations

import ctypes
import os
import re
import runpy
import signal
import sys
from typing import Any, TextIO

STAGE = re.compile(r"^  (?P<title>\S.*): \d+\.\d s, peak memory \d+ MiB", re.MULTILINE)
_PARENT_DEATH_SIGNAL = 1


class _Stopping:
    """A stream that stops the process after a line that ends a stage."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._begun = stream, ""

    def write(self, text: str) -> int:
        count = self._stream.write(text)
        lines, end, self._begun = (self._begun + text).rpartition("\n")
        if end and STAGE.search(lines):
            self._stream.flush()
            os.kill(os.getpid(), signal.SIGSTOP)
        return count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    sys.stderr = _Stopping(sys.stderr)
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
