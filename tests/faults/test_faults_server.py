"""A server that is told to go, whose engine fails, or that is killed."""

from __future__ import annotations

import signal
import threading
import time
from functools import partial
from pathlib import Path

import httpx
import pytest
from fault_rig import ENDLESS, Answer, Figures, Served, seconds_until, served, stream, together

pytestmark = pytest.mark.faults
READY = "/health/ready"


class Streams:
    """Four streams in a thread; each an Answer, or the exception that ended it."""

    def __init__(self, server: Served, count: int = 4, **changes: object) -> None:
        self.answers: list[Answer | Exception] = []
        self.ended = 0.0
        job = partial(stream, body=ENDLESS | changes)
        self._thread = threading.Thread(target=self._run, args=(server.url, [job] * count))
        self._thread.start()
        seconds_until(lambda: server.held() == count)

    def _run(self, url: str, jobs: list) -> None:
        self.answers = together(url, *jobs)
        self.ended = time.perf_counter()

    def join(self) -> list:
        self._thread.join(60)
        return self.answers


def told(answers: list[Answer | Exception]) -> int:
    """How many ended with an error event."""
    return sum(isinstance(answer, Answer) and answer.error is not None for answer in answers)


def test_sigterm_lets_streams_finish(artefact_dir: Path, figures: Figures):
    with served(artefact_dir, pace_ms=10) as server, figures.of("SIGTERM") as note:
        streams = Streams(server)
        server.process.send_signal(signal.SIGTERM)
        note.within("s until ready says 503", seconds_until(lambda: server.status(READY) == 503), 0.2)
        done = [isinstance(answer, Answer) and answer.done for answer in streams.join()]
        note.equal("streams ended with [DONE], of 4", sum(done), 4)
        note.equal("exit status", server.process.wait(20), 0)


def test_sigterm_ends_what_does_not_finish(artefact_dir: Path, figures: Figures):
    options = ("--drain-timeout", "0.5")
    with served(artefact_dir, *options, pace_ms=50) as server, figures.of("SIGTERM, drain 0.5 s") as note:
        streams = Streams(server)
        server.process.send_signal(signal.SIGTERM)
        limit = time.perf_counter() + 0.5
        note.equal("streams ended with an error event, of 4", told(streams.join()), 4)
        note.within("s from the limit to the last stream's end", streams.ended - limit, 1)
        note.equal("exit status", server.process.wait(20), 0)
        note.within("s from the limit to the exit", time.perf_counter() - limit, 3)


def test_an_engine_that_raises(artefact_dir: Path, figures: Figures):
    with served(artefact_dir, pace_ms=20) as server, figures.of("engine raises") as note:
        streams = Streams(server)
        server.process.send_signal(signal.SIGUSR1)
        raised = time.perf_counter()
        note.equal("streams told by an error event, of 4", told(streams.join()), 4)
        note.within("s until they are", streams.ended - raised, 1)
        after = together(server.url, partial(stream, body=ENDLESS | {"max_tokens": 5}))[0]
        note.equal("the next answer is complete", after.done, True)
        note.equal("status of ready", server.status(READY), 200)


def test_an_engine_that_dies(artefact_dir: Path, figures: Figures):
    with served(artefact_dir, pace_ms=20) as server, figures.of("engine dies") as note:
        streams = Streams(server, count=10)
        server.process.send_signal(signal.SIGUSR2)
        note.within("s until ready says 503", seconds_until(lambda: server.status(READY) == 503), 1)
        note.equal("streams told by an error event, of 10", told(streams.join()), 10)
        after = together(server.url, partial(stream, body=ENDLESS))[0]
        note.equal("status of a new request", after.status, 503)
        note.equal("status of live", server.status("/health/live"), 503)
        server.process.send_signal(signal.SIGTERM)
        note.equal("exit status on SIGTERM", server.process.wait(20), 0)


def test_a_process_that_is_killed(artefact_dir: Path, figures: Figures):
    with figures.of("kill -9") as note:
        with served(artefact_dir, pace_ms=20) as server:
            streams = Streams(server)
            server.process.kill()
            killed = time.perf_counter()
            broken = [isinstance(answer, httpx.HTTPError) for answer in streams.join()]
            note.equal("streams broken off, not hanging, of 4", sum(broken), 4)
            note.within("s until they are", streams.ended - killed, 1)
            port = server.url.rpartition(":")[2]
        with served(artefact_dir, "--port", port) as server:
            again = together(server.url, partial(stream, body=ENDLESS | {"max_tokens": 3}))[0]
            note.equal("status of an answer after a restart on its port", again.status, 200)
