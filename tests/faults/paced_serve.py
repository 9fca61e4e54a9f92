"""`lathe serve` as users start it, with an engine that takes a fixed time a step and can be made to fail.

PACE_MS: milliseconds added to every decode step, so that a tiny model is as slow as a real one.
SIGUSR1: the next step raises. SIGUSR2: the thread that owns the engine dies.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import typer

from lathe.artefact.llamacpp.runner import LlamaCppRunner
from lathe.artefact.onnx.runner import OnnxRunner
from lathe.serving.cli.serve import serve

PACE_S = float(os.environ.get("PACE_MS", "0")) / 1000
failures: list[BaseException] = []


def paced(decode: Callable[..., Any]) -> Callable[..., Any]:
    def decode_in_time(self: Any, tokens: Any) -> Any:
        time.sleep(PACE_S)
        if failures:
            raise failures.pop()
        return decode(self, tokens)

    return decode_in_time


if __name__ == "__main__":
    for runner in (OnnxRunner, LlamaCppRunner):
        runner.decode = paced(runner.decode)  # type: ignore[method-assign]
    signal.signal(signal.SIGUSR1, lambda *_: failures.append(RuntimeError("injected")))
    signal.signal(signal.SIGUSR2, lambda *_: failures.append(SystemExit()))
    app = typer.Typer()
    app.command()(serve)
    app()
