"""An engine that is held back on purpose: what a test asks while answers run is asked on any machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import psutil

_ENGINE = "VLLM::EngineCore"


class HeldEngine:
    """From the beginning of the block to `release`, or its end, the engine of a server gives no token: its
    process is stopped. The API servers go on: they accept, refuse and report."""

    def __init__(self, server: int) -> None:
        family = psutil.Process(server).children(recursive=True)
        self._engines = [process for process in family if process.name().startswith(_ENGINE[:15])]
        assert self._engines, [process.name() for process in family]

    def __enter__(self) -> HeldEngine:
        for engine in self._engines:
            engine.suspend()
        return self

    def release(self) -> None:
        for engine in self._engines:
            with suppress(psutil.NoSuchProcess):
                engine.resume()

    def __exit__(self, *_: object) -> None:
        self.release()


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for what has to come, however long this machine takes."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.05)
