"""A shell in which the commands of a page run one after the other, as a reader would type them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.tutorial.document import Step, matches

READY_S = 120
LIMIT_S = 3600.0
_DONE = "--- done:"


class MismatchError(Exception):
    """A command failed, or printed something else than the page says."""


class Session:
    """One bash, so that `cd` and an activated environment last.

    What it is given runs in `directory`, `limit_s` seconds in all.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str], limit_s: float = LIMIT_S) -> None:
        self._bash = subprocess.Popen(
            ["bash", "--norc"],
            cwd=directory,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._watch = threading.Timer(limit_s, self._end)
        self._log = directory / "serve.log"

    def __enter__(self) -> Self:
        self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Whatever still runs ends with the shell."""
        self._watch.cancel()
        try:
            self._bash.communicate("kill $(jobs -p) 2> /dev/null; wait; exit\n", timeout=60)
        finally:
            self._end()

    def _end(self) -> None:
        """The shell and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._bash.pid, signal.SIGKILL)

    def run(self, step: Step) -> str:
        """What the command printed, to either stream. Raises MismatchError."""
        command = self._background(step.command) if step.serves else step.command
        self._send(f"{command}\nprintf '\\n{_DONE} %s\\n' $?")
        lines = []
        assert self._bash.stdout is not None
        for line in self._bash.stdout:
            if line.startswith(_DONE):
                break
            lines.append(line)
        else:
            raise MismatchError(f"the shell ended in {step.command!r}: {''.join(lines)}")
        printed = "".join(lines).removesuffix("\n")
        status = line.split()[-1]
        if status != "0" or (step.expected and not matches(step.expected, printed)):
            raise MismatchError(
                f"$ {step.command}\n{printed}(exit status {status})\nThe page says:\n{step.expected}"
            )
        return printed

    def end_servers(self) -> None:
        """What a reader does with Ctrl+C."""
        self.run(Step("", "kill $(jobs -p) 2> /dev/null; wait; true"))

    def _background(self, command: str) -> str:
        """The command in the background; over once it is ready or has ended."""
        return (
            f"{command} > {self._log} 2>&1 &\nfor _ in $(seq {10 * READY_S}); do\n"
            f"grep -q ready {self._log} && break; kill -0 $! 2> /dev/null || break; sleep 0.1\ndone\n"
            f"cat {self._log}; grep -q ready {self._log}"
        )

    def _send(self, text: str) -> None:
        assert self._bash.stdin is not None
        self._bash.stdin.write(text + "\n")
        self._bash.stdin.flush()


def environment(**variables: str) -> dict[str, str]:
    """This process's, with a width for tables and without what would measure on one core only."""
    return dict(os.environ) | {"COLUMNS": "100", "PYTHONUNBUFFERED": "1"} | variables
