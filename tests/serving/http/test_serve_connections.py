"""Connections between and around requests: how long one may be idle, and what leaves it usable."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from lathe.serving.options import KEEP_ALIVE_S
from support.tiny_server import NAME, Running, running

GOOD = json.dumps({"model": NAME, "prompt": "x", "max_tokens": 1}).encode()
LONGER_S = 0.9
HEADERS = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def hasty(artefact_dir: Path) -> Iterator[Running]:
    """A request has to arrive within 0.6 s, an idle connection may stay."""
    with running(artefact_dir, receive_timeout=0.6, keep_alive=60) as server:
        yield server


@pytest.fixture
def client(hasty: Running) -> Iterator[http.client.HTTPConnection]:
    with closing(connection(hasty)) as found:
        yield found


def connection(server: Running) -> http.client.HTTPConnection:
    host, port = server.url.removeprefix("http://").split(":")
    found = http.client.HTTPConnection(host, int(port), timeout=30)
    found.auto_open = False  # a connection that was closed is an error here, not opened again
    found.connect()
    return found


def complete(client: http.client.HTTPConnection, body: bytes = GOOD, path: str = "/v1/completions") -> int:
    client.request("POST", path, body, HEADERS)
    answer = client.getresponse()
    answer.read()
    return answer.status


def gone(client: http.client.HTTPConnection) -> bool:
    try:
        return client.sock.recv(1) == b""
    except ConnectionResetError:
        return True


def test_s4_an_idle_connection_outlives_the_limit_for_slow_requests(
    client: http.client.HTTPConnection,
) -> None:
    for _ in range(3):
        assert complete(client) == 200
        time.sleep(LONGER_S)
    assert complete(client) == 200


def test_s4_the_clock_of_a_slow_request_starts_with_its_first_byte(
    client: http.client.HTTPConnection,
) -> None:
    assert complete(client) == 200
    time.sleep(LONGER_S)
    client.sock.sendall(b"P")
    assert gone(client)


def test_s4_a_body_that_does_not_come_is_not_waited_for(client: http.client.HTTPConnection) -> None:
    assert complete(client) == 200
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    client.sock.sendall(head + b"content-length: 9\r\n\r\n{")
    assert gone(client)


def test_s4_an_idle_connection_is_closed_in_the_end(artefact_dir: Path) -> None:
    with (
        running(artefact_dir, receive_timeout=30, keep_alive=0.3) as server,
        closing(connection(server)) as client,
    ):
        assert complete(client) == 200
        assert gone(client)


def test_s4_the_default_is_longer_than_that_of_proxies_and_pools(server: Running) -> None:
    assert KEEP_ALIVE_S >= 75
    assert server.server.config.timeout_keep_alive == KEEP_ALIVE_S


def test_s4_a_request_behind_another_in_one_packet_is_timed_and_answered(
    hasty: Running, client: http.client.HTTPConnection
) -> None:
    kind = "host: x\r\ncontent-type: application/json\r\n"
    head = f"POST /v1/completions HTTP/1.1\r\n{kind}content-length: {len(GOOD)}\r\n\r\n"
    whole = head.encode() + GOOD
    client.sock.sendall(whole + whole + whole[:20])
    for _ in range(2):
        answer = http.client.HTTPResponse(client.sock)
        answer.begin()
        assert answer.status == 200
        answer.read()
    assert gone(client)
    assert hasty.backend.healthy


@pytest.mark.parametrize(
    ("body", "path", "status"),
    [
        (b"{", "/v1/completions", 400),
        (b'{"model": "tiny"}', "/v1/completions", 400),
        (b'{"model": "tiny", "prompt": "x", "max_tokens": 100000}', "/v1/completions", 400),
        (b'{"model": "other", "prompt": "x"}', "/v1/completions", 404),
        (GOOD, "/v1/nothing", 404),
        (GOOD, "/v1/models", 405),
        (GOOD * 3000, "/v1/nothing", 404),
    ],
)
def test_s4_a_refusal_leaves_the_connection_usable(
    client: http.client.HTTPConnection, body: bytes, path: str, status: int
) -> None:
    assert complete(client, body, path) == status
    time.sleep(LONGER_S)
    assert complete(client) == 200


def test_s4_a_full_queue_leaves_the_connection_usable(artefact_dir: Path) -> None:
    with running(artefact_dir, max_batch=1, max_queue=0) as server, ExitStack() as stack:
        first, second = (stack.enter_context(closing(connection(server))) for _ in range(2))
        server.runner.gate.clear()
        first.request("POST", "/v1/completions", json.dumps(json.loads(GOOD) | {"max_tokens": 9}), HEADERS)
        while not server.backend.num_running:
            time.sleep(0.01)
        assert complete(second) == 429
        server.runner.gate.set()
        assert first.getresponse().status == 200
        assert complete(second) == 200


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
@pytest.mark.parametrize("path", ["/v1/models", "/v1/completions", "/health", "/metrics", "/"])
def test_s4_other_methods_are_answered_and_the_connection_stays(
    client: http.client.HTTPConnection, method: str, path: str
) -> None:
    client.request(method, path)
    answer = client.getresponse()
    assert answer.status in (200, 404, 405)
    assert method != "HEAD" or answer.read() == b""
    answer.read()
    assert complete(client) == 200


def test_s4_old_and_careful_clients_are_served(hasty: Running) -> None:
    """HTTP/1.0, a body in chunks, and one that asks first."""
    host, port = hasty.url.removeprefix("http://").split(":")
    kind = b"content-type: application/json\r\n"
    length = f"content-length: {len(GOOD)}\r\n".encode()
    chunks = b"".join(f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in (GOOD[:9], GOOD[9:], b""))
    sent = [
        b"POST /v1/completions HTTP/1.0\r\n" + kind + length + b"\r\n" + GOOD,
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n"
        + kind
        + b"\r\n"
        + chunks,
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n"
        + kind
        + length
        + b"\r\n"
        + GOOD,
    ]
    for request in sent:
        with socket.create_connection((host, int(port)), timeout=30) as raw:
            raw.sendall(request)
            answer = http.client.HTTPResponse(raw)
            answer.begin()
            assert answer.status == 200
            assert json.loads(answer.read())["usage"]["completion_tokens"] == 1


def test_s4_a_stream_for_an_http_1_0_client_ends_with_its_connection(hasty: Running) -> None:
    host, port = hasty.url.removeprefix("http://").split(":")
    body = json.dumps(json.loads(GOOD) | {"stream": True}).encode()
    kind = "content-type: application/json\r\n"
    head = f"POST /v1/completions HTTP/1.0\r\n{kind}content-length: {len(body)}\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as raw:
        raw.sendall(head.encode() + body)
        with raw.makefile("rb") as answer:
            text = answer.read().decode()
    assert "transfer-encoding" not in text.lower()
    assert text.endswith("data: [DONE]\n\n")
