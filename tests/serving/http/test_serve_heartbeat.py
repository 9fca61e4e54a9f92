"""A stream that waits says so in comment lines, which no client takes for an event."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from lathe.serving.http import heartbeat
from lathe.serving.loadtest.compare import run
from lathe.serving.loadtest.load import Load
from lathe.serving.loadtest.prompts import PromptChoice
from lathe.serving.loadtest.testbed import Setup
from support.tiny_server import NAME, Running, running

ASKS: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "The quick", "max_tokens": 3},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 3},
    "/v1/responses": {"input": "x", "max_output_tokens": 3},
}
COMMON = {"model": NAME, "ignore_eos": True, "stream": True}


@pytest.fixture
def single(artefact_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """One slot, and a comment every 50 ms of silence."""
    monkeypatch.setattr(heartbeat, "HEARTBEAT_S", 0.05)
    with running(artefact_dir, max_batch=1, max_queue=4) as server:
        yield server


@pytest.fixture
def busy(single: Running) -> Iterator[Running]:
    """Its slot is taken until the gate opens."""
    single.runner.gate.clear()
    other = threading.Thread(target=lambda: single.complete(max_tokens=2, ignore_eos=True))
    other.start()
    while not single.backend.num_running:
        time.sleep(0.005)
    yield single
    single.runner.gate.set()
    other.join()


@pytest.mark.parametrize("path", ASKS)
def test_s5_a_waiting_stream_has_headers_at_once_and_then_comments(busy: Running, path: str) -> None:
    with httpx.stream("POST", busy.url + path, json=COMMON | ASKS[path], timeout=30) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        text, parts = "", answer.iter_text()
        while text.count(": waiting\n\n") < 3:
            text += next(parts)
        assert busy.backend.num_waiting == 1
        busy.runner.gate.set()
        text += "".join(parts)
    events = [event for event in text.split("\n\n") if event and event != ": waiting"]
    assert all(event.rpartition("\n")[2].startswith("data: ") for event in events)
    if path == "/v1/responses":
        told = [json.loads(event.partition("\ndata: ")[2]) for event in events]
        assert [event["sequence_number"] for event in told] == list(range(len(told)))
        assert told[-1]["type"] == "response.incomplete"
    else:
        assert events.pop() == "data: [DONE]"
        assert json.loads(events[-1][6:])["choices"][0]["finish_reason"] == "length"


def test_s5_openais_client_sees_events_only(busy: Running) -> None:
    with openai.OpenAI(base_url=f"{busy.url}/v1", api_key="x", max_retries=0) as client:
        stream = client.chat.completions.create(
            model=NAME,
            messages=[{"role": "user", "content": "x"}],
            max_tokens=3,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        opened = next(stream)
        time.sleep(0.2)
        busy.runner.gate.set()
        chunks = [opened, *stream]
    assert [chunk.choices[0].finish_reason for chunk in chunks].count("length") == 1


def test_s5_a_comment_is_no_token_of_a_load_test(busy: Running) -> None:
    """Whose first request waits for the slot: the comments stand for no token and break nothing."""
    threading.Timer(0.4, busy.runner.gate.set).start()
    load = Load(concurrency=2, requests=4, warmup=0, output_tokens=3)
    system = run(busy.url, load, setup=Setup(PromptChoice(tokens=8)))["systems"]["server"]
    assert (system["failed"], system["output_tokens"]) == (0, 12)
    samples = system["rounds"][0]["samples"]
    assert all(len(sample["chunks_ms"]) <= 3 for sample in samples)


def test_s5_who_leaves_while_waiting_frees_the_place(busy: Running) -> None:
    before = busy.counter("lathe_requests_total", endpoint="completions", outcome="client_disconnect")
    body = COMMON | ASKS["/v1/completions"]
    with httpx.stream("POST", f"{busy.url}/v1/completions", json=body, timeout=30) as answer:
        parts = answer.iter_text()
        assert next(parts).startswith(": waiting")
        assert busy.backend.num_waiting == 1
    while busy.counter("lathe_requests_total", endpoint="completions", outcome="client_disconnect") == before:
        time.sleep(0.01)
    while busy.backend.num_waiting:
        time.sleep(0.01)


def test_s5_an_error_after_comments_is_still_an_event(
    artefact_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "HEARTBEAT_S", 0.05)
    with running(artefact_dir, max_batch=1, request_timeout=1.5) as server:
        server.runner.gate.clear()
        body = COMMON | ASKS["/v1/completions"]
        with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=30) as answer:
            text = "".join(answer.iter_text())
        server.runner.gate.set()
    assert ": waiting\n\n" in text
    last = text.rstrip().split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "timeout"


def test_s5_a_stream_that_flows_has_no_comments(server: Running) -> None:
    answer = httpx.post(f"{server.url}/v1/completions", json=COMMON | ASKS["/v1/completions"], timeout=30)
    assert ": waiting" not in answer.text
    assert 10 <= heartbeat.HEARTBEAT_S <= 20
