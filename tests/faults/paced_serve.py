"""`lathe serve` as users start it, with an engine that takes a fixed time a step and can be made to fail.

PACE_MS: milliseconds added to every decode step, so that a tiny model is as slow as a real one.
SIGUSR1: the next step raises. SIGUSR2: the thread that owns the engine dies.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import typer

from lathe.artefact.onnx import runner
from lathe.serving.cli.serve import serve

PACE_S = float(os.environ.get("PACE_MS", "0")) / 1000
failures: list[BaseException] = []


class PacedRunner(runner.OnnxRunner):
    def decode(self, tokens: Any) -> Any:
        time.sleep(PACE_S)
        if failures:
            raise failures.pop()
        return super().decode(tokens)


if __name__ == "__main__":
    runner.OnnxRunner = PacedRunner  # type: ignore[misc]
    signal.signal(signal.SIGUSR1, lambda *_: failures.append(RuntimeError("injected")))
    signal.signal(signal.SIGUSR2, lambda *_: failures.append(SystemExit()))
    app = typer.Typer()
    app.command()(serve)
    app()
