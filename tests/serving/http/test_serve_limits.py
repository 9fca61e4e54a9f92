"""Clients that send slowly, read nothing or ask for too long: each is let go, nobody else notices."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from support.tiny_server import NAME, Running, running

HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
LONG = {"model": NAME, "prompt": "The dog", "max_tokens": 480, "ignore_eos": True, "stream": True}


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.005)


@contextmanager
def connected(server: Running, **options: int) -> Iterator[socket.socket]:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.socket() as client:
        for name, value in options.items():
            client.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
        client.settimeout(20)
        client.connect((host, int(port)))
        yield client


def closed(client: socket.socket) -> bool:
    """Whether the server hangs up without another word."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def answered(client: socket.socket) -> int:
    """The status of one whole answer."""
    response = HTTPResponse(client)
    response.begin()
    response.read()
    return response.status


def ended(server: Running, outcome: str) -> float:
    return server.counter("lathe_requests_total", endpoint="completions", outcome=outcome)


@pytest.fixture(scope="module")
def impatient(artefact_dir: Path) -> Iterator[Running]:
    """For requests that have to fail."""
    with running(artefact_dir, receive_timeout=0.3) as server:
        yield server


@pytest.fixture(scope="module")
def patient(artefact_dir: Path) -> Iterator[Running]:
    """With time for requests that have to succeed, on a machine that stalls."""
    with running(artefact_dir, receive_timeout=2, write_timeout=1) as server:
        yield server


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"G",
        HEAD,
        HEAD + b"content-length: 100\r\n\r\n{",
        HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n",
        HEAD + b"content-length: 100\r\nexpect: 100-continue\r\n\r\n",
    ],
)
def test_a_request_that_does_not_arrive_is_not_waited_for(impatient: Running, sent: bytes):
    with connected(impatient) as client:
        client.sendall(sent)
        if b"100-continue" in sent:
            assert client.recv(100).startswith(b"HTTP/1.1 100")
        assert closed(client)
    assert impatient.backend.healthy


def test_neither_is_one_that_arrives_in_drops(impatient: Running):
    with connected(impatient) as client:
        for byte in HEAD * 100:
            try:
                client.sendall(bytes([byte]))
            except (ConnectionResetError, BrokenPipeError):
                return
            time.sleep(0.01)
    raise AssertionError("the connection stayed open")


def test_the_body_of_a_refused_request_is_not_waited_for_either(impatient: Running):
    with connected(impatient) as client:
        client.sendall(b"POST /nope HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        assert client.recv(4096).startswith(b"HTTP/1.1 404")
        while client.recv(4096):
            pass


def test_what_arrives_in_time_is_answered_however_long_that_takes(patient: Running):
    """Decoding is held up for longer than both limits."""
    with connected(patient) as client:
        body = json.dumps(LONG | {"max_tokens": 3, "stream": False}).encode()
        patient.runner.gate.clear()
        client.sendall(HEAD + f"content-length: {len(body)}\r\n\r\n".encode() + body)
        until(lambda: patient.backend.num_running == 1)
        time.sleep(2.2)
        patient.runner.gate.set()
        assert answered(client) == 200
        client.sendall(HEAD + f"content-length: {len(body)}\r\n\r\n".encode() + body)
        assert answered(client) == 200


def test_a_reader_that_stalls_is_let_go_and_others_are_served(patient: Running):
    def left() -> float:
        return patient.counter("lathe_requests_total", endpoint="chat", outcome="client_disconnect")

    before = left()
    heavy = {"n": 4, "messages": [{"role": "user", "content": "x"}], "logprobs": True, "top_logprobs": 20}
    body = json.dumps({key: LONG[key] for key in LONG if key != "prompt"} | heavy).encode()
    with connected(patient, SO_RCVBUF=4096) as client:
        head = HEAD.replace(b"/completions", b"/chat/completions")
        client.sendall(head + f"content-length: {len(body)}\r\n\r\n".encode() + body)
        until(lambda: patient.backend.num_running > 0)
        assert patient.complete(max_tokens=200, ignore_eos=True)["usage"]["completion_tokens"] == 200
        until(lambda: left() == before + 1)
        until(lambda: patient.backend.num_running == 0)


def test_a_slow_reader_gets_everything(patient: Running):
    with connected(patient, SO_RCVBUF=4096) as client:
        body = json.dumps(LONG | {"logprobs": 5, "max_tokens": 100}).encode()
        client.sendall(HEAD + f"content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
        received = b""
        while part := client.recv(2048):
            received += part
            time.sleep(0.005)
        assert b"data: [DONE]" in received


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_takes_too_long_is_ended(artefact_dir: Path, stream: bool):
    with running(artefact_dir, request_timeout=0.3, max_batch=1) as server:
        server.runner.gate.clear()
        asked: dict[str, Any] = LONG | {"stream": stream}
        response = httpx.post(f"{server.url}/v1/completions", json=asked, timeout=30)
        if stream:
            document = json.loads(response.text.strip().rpartition("data: ")[2])
        else:
            assert response.status_code == 504
            assert response.headers["x-should-retry"] == "false"
            document = response.json()
        assert document["error"]["code"] == "timeout"
        assert ended(server, "timeout") == 1
        server.runner.gate.set()
        until(lambda: server.backend.num_running == 0)
        until(lambda: server.post("completions", prompt="x", max_tokens=1).status_code == 200)


def test_the_limit_holds_for_one_that_waits_its_turn(artefact_dir: Path):
    with running(artefact_dir, request_timeout=0.3, max_batch=1) as server:
        server.runner.gate.clear()
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=2) as client:
            asked: dict[str, Any] = {"model": NAME, "prompt": "x", "extra_body": {"ignore_eos": True}}
            for _ in range(2):
                with pytest.raises(openai.InternalServerError):
                    client.completions.create(**asked)
        assert ended(server, "timeout") == 2
        server.runner.gate.set()
        until(lambda: server.backend.num_running + server.backend.num_waiting == 0)


def test_what_is_no_http_is_told_so_in_the_usual_shape(impatient: Running):
    with connected(impatient) as client:
        client.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        head, _, body = client.recv(4096).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert json.loads(body)["error"]["type"] == "invalid_request_error"
