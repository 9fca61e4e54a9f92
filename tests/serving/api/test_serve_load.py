"""More clients than slots, clients that leave, and a server that is told to go."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from support.tiny_server import NAME, Running, running

ENDLESS = {
    "model": NAME,
    "prompt": "The dog",
    "max_tokens": 400,
    "ignore_eos": True,
    "logit_bias": {"70": 100},
}


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.005)


def read_stream(server: Running, lines: list[str], **body: object) -> None:
    with httpx.stream(
        "POST", f"{server.url}/v1/completions", json=ENDLESS | {"stream": True} | body, timeout=60
    ) as response:
        lines.append(str(response.status_code))
        lines.extend(line for line in response.iter_lines() if line)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_slot(artefact_dir: Path, stream: bool):
    with running(artefact_dir, max_batch=1, max_queue=0) as server:
        server.runner.gate.clear()
        with httpx.Client() as http:
            request = http.build_request(
                "POST", f"{server.url}/v1/completions", json=ENDLESS | {"stream": stream}
            )
            if stream:
                response = http.send(request, stream=True)
                assert next(response.iter_lines())
                response.close()
            else:
                request.extensions["timeout"] = {"read": 0.3}
                with pytest.raises(httpx.ReadTimeout):
                    http.send(request)
        left = {"endpoint": "completions", "outcome": "client_disconnect"}
        until(lambda: server.counter("lathe_requests_total", **left) == 1)
        server.runner.gate.set()
        until(lambda: server.backend.num_running == 0)
        assert server.counter("lathe_generation_tokens_total") <= 3
        assert server.complete(max_tokens=3)["usage"]["completion_tokens"] <= 3


def test_overload_is_answered_with_429_and_nothing_accepted_is_lost(artefact_dir: Path):
    with running(artefact_dir, max_batch=2, max_queue=3) as server, ThreadPoolExecutor(20) as pool:
        server.runner.gate.clear()
        answers = [pool.submit(server.post, "completions", **ENDLESS | {"max_tokens": 5}) for _ in range(20)]
        refused = {"endpoint": "completions", "outcome": "rejected"}
        until(lambda: server.counter("lathe_requests_total", **refused) == 15)
        held = [server.counter(f"lathe_requests_{state}") for state in ("running", "waiting")]
        assert sum(held) == 5
        assert 1 <= held[0] <= 2
        server.runner.gate.set()
        responses = [answer.result() for answer in answers]
        assert sorted(response.status_code for response in responses) == [200] * 5 + [429] * 15
        full = next(response for response in responses if response.status_code == 429)
        assert int(full.headers["retry-after"]) >= 1
        assert full.json()["error"]["code"] == "queue_full"
        assert all(r.json()["usage"]["completion_tokens"] == 5 for r in responses if r.status_code == 200)


def test_draining_finishes_streams_and_refuses_the_new(artefact_dir: Path):
    with running(artefact_dir, max_batch=2, drain_timeout=30) as server:
        server.runner.gate.clear()
        streams: list[list[str]] = [[] for _ in range(4)]
        threads = [threading.Thread(target=read_stream, args=(server, lines)) for lines in streams]
        for thread in threads:
            thread.start()
        until(lambda: server.backend.num_running + server.backend.num_waiting == 4)
        server.stop()
        until(lambda: httpx.get(f"{server.url}/health/ready").status_code == 503)
        assert httpx.get(f"{server.url}/health/live").status_code == 200
        refusal = server.post("completions", prompt="x")
        assert refusal.status_code == 503
        assert "retry-after" in refusal.headers
        server.runner.gate.set()
        for thread in (*threads, server.thread):
            thread.join(30)
        assert not server.thread.is_alive()
        for lines in streams:
            assert lines[0] == "200"
            assert lines[-1] == "data: [DONE]"
            assert json.loads(lines[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"


def test_an_engine_that_has_failed_is_a_case_for_a_restart(artefact_dir: Path):
    with running(artefact_dir) as server:
        server.backend.close()
        for probe in ("live", "ready"):
            answer = httpx.get(f"{server.url}/health/{probe}")
            assert answer.status_code == 503
            assert "engine has failed" in answer.text


def test_what_cannot_finish_in_time_is_told_so(artefact_dir: Path):
    with running(artefact_dir, max_batch=1, drain_timeout=0.05) as server:
        server.runner.gate.clear()
        lines: list[str] = []
        reader = threading.Thread(target=read_stream, args=(server, lines))
        reader.start()
        until(lambda: server.backend.num_running == 1)
        server.stop()
        until(lambda: server.backend._queue.closed)
        server.runner.gate.set()
        server.thread.join(30)
        reader.join(30)
        assert not server.thread.is_alive()
        assert "stopped before" in json.loads(lines[-1].removeprefix("data: "))["error"]["message"]
