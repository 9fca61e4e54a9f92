"""The playground's routes: what is served, to whom, and what can be reached through it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from lathe.serving.http.socket import listen, url_of
from lathe.serving.playground.pages import Playground, Setup
from lathe.serving.playground.upstream import POSTS, Upstream
from support.compress_command import lathe
from support.other_server import serving
from support.tiny_server import NAME, Running, running

SETUP = Setup(model=NAME, chat=True, target_ms=17.0, context=512, compare=True)
QUESTION: dict[str, Any] = {"model": NAME, "messages": [{"role": "user", "content": "x"}], "max_tokens": 5}


@contextmanager
def playing(
    artefact_dir: Path, compare: str | None = None, key: str | None = None, **options: Any
) -> Iterator[Running]:
    upstream = Upstream(compare, key) if compare else None
    with running(artefact_dir, playground=Playground(SETUP, upstream), **options) as server:
        yield server


@pytest.fixture(scope="module")
def pair(artefact_dir: Path, server: Running) -> Iterator[Running]:
    """A server with a key, beside one without."""
    with playing(artefact_dir, server.url, api_key="ours") as found:
        yield found


def own(pair: Running) -> dict[str, str]:
    return {"authorization": "Bearer ours"}


def test_the_page_and_its_files_need_no_key_and_all_else_does(pair: Running) -> None:
    page = httpx.get(pair.url)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert {policy["script-src"], policy["connect-src"], policy["style-src"]} == {"'self'"}
    for path in set(re.findall(r'(?:src|href)="(/[^"]+)"', page.text)):
        assert httpx.get(pair.url + path).status_code == 200
    for path in ("/playground/setup", "/compare/v1/models", "/compare/metrics", "/metrics", "/v1/models"):
        assert httpx.get(pair.url + path).status_code == 401
        assert httpx.get(pair.url + path, headers=own(pair)).status_code == 200
    for path in POSTS:
        assert httpx.post(f"{pair.url}/compare{path}", json=QUESTION).status_code == 401
    setup = httpx.get(f"{pair.url}/playground/setup", headers=own(pair)).json()
    assert setup == {"model": NAME, "chat": True, "target_ms": 17.0, "context": 512, "compare": True}


@pytest.mark.parametrize("path", ["/playground/../pages.py", "/playground/%2e%2e/pages.py", "/playground/"])
def test_no_other_file_is_reached(pair: Running, path: str) -> None:
    assert httpx.get(pair.url + path, headers=own(pair)).status_code == 404


def test_files_name_no_other_host() -> None:
    for file in files("lathe.serving.playground").joinpath("static").iterdir():
        text = file.read_text()
        assert set(re.findall(r"https?://[^\s\"'`]+", text)) <= {"http://www.w3.org/2000/svg"}
        assert "innerHTML" not in text
        assert "eval(" not in text


def test_without_a_playground_there_is_no_page(server: Running) -> None:
    for path in ("/", "/playground/app.js", "/playground/setup", "/compare/v1/models"):
        assert httpx.get(server.url + path).status_code == 404


def test_both_models_answer_through_one_server(pair: Running, server: Running) -> None:
    stream = QUESTION | {"stream": True, "temperature": 0, "stream_options": {"include_usage": True}}
    answers = []
    for path in ("/v1/chat/completions", "/compare/v1/chat/completions"):
        before = server.counter("lathe_generation_tokens_total")
        answer = httpx.post(pair.url + path, json=stream, headers=own(pair), timeout=30)
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.text.rstrip().endswith("data: [DONE]")
        events = [json.loads(line[6:]) for line in answer.text.split("\n\n") if line.startswith("data: {")]
        answers.append("".join(e["choices"][0]["delta"].get("content") or "" for e in events if e["choices"]))
        there = server.counter("lathe_generation_tokens_total") - before
        assert (there > 0) == path.startswith("/compare")
    assert answers[0] == answers[1]
    assert httpx.get(f"{pair.url}/compare/v1/models", headers=own(pair)).json()["data"][0]["id"] == NAME


def test_a_reader_who_leaves_stops_the_other_server_too(pair: Running, server: Running) -> None:
    def left() -> float:
        return server.counter("lathe_requests_total", endpoint="chat", outcome="client_disconnect")

    before = left()
    server.runner.gate.clear()
    body = QUESTION | {"stream": True, "max_tokens": 400, "ignore_eos": True}
    url = f"{pair.url}/compare/v1/chat/completions"
    with httpx.stream("POST", url, json=body, headers=own(pair), timeout=30) as answer:
        next(answer.iter_raw())
    try:
        deadline = time.monotonic() + 10
        while left() == before and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        server.runner.gate.set()
    assert left() == before + 1


def test_keys_do_not_mix(artefact_dir: Path) -> None:
    seen: list[dict[str, str]] = []

    async def note(request: Request) -> Response:
        seen.append(dict(request.headers))
        return JSONResponse({"data": []}, headers={"set-cookie": "a=b", "x-secret": "theirs"})

    with (
        serving(Starlette(routes=[Route("/v1/models", note)])) as url,
        playing(artefact_dir, f"{url}/v1/", "theirs", api_key="ours") as pair,
    ):
        answer = httpx.get(f"{pair.url}/compare/v1/models", headers=own(pair) | {"cookie": "c=d"})
    assert answer.status_code == 200
    assert seen[0]["authorization"] == "Bearer theirs"
    assert "cookie" not in seen[0]
    assert "ours" not in str(seen)
    assert not {"set-cookie", "x-secret"} & set(answer.headers)


def test_redirects_are_not_followed(artefact_dir: Path, server: Running) -> None:
    async def elsewhere(_: Request) -> Response:
        return RedirectResponse(f"{server.url}/v1/models")

    app = Starlette(routes=[Route("/v1/models", elsewhere)])
    with serving(app) as url, playing(artefact_dir, url) as pair:
        answer = httpx.get(f"{pair.url}/compare/v1/models")
    assert answer.status_code == 502
    assert "redirect" in answer.json()["error"]["message"]


def test_a_server_that_is_not_there_is_an_error_of_its_own(artefact_dir: Path) -> None:
    with listen("127.0.0.1", 0) as listener:
        url = url_of(listener)
    with playing(artefact_dir, url) as pair:
        answer = httpx.get(f"{pair.url}/compare/v1/models")
        assert answer.status_code == 502
        assert answer.json()["error"]["code"] == "compare_unreachable"
        assert pair.complete(max_tokens=1)


def test_only_four_paths_lead_to_the_other_server(pair: Running) -> None:
    for path in (
        "/compare",
        "/compare/",
        "/compare/health",
        "/compare/v1/models/x",
        "/compare/http://127.0.0.1/",
    ):
        assert httpx.get(pair.url + path, headers=own(pair)).status_code == 404
    url = f"{pair.url}/compare/v1/chat/completions"
    for kind, body, status in (("text/plain", b"{}", 415), ("application/json", b" " * (4 * 2**20 + 1), 413)):
        headers = own(pair) | {"content-type": kind}
        assert httpx.post(url, content=body, headers=headers).status_code == status


@pytest.mark.parametrize(
    "options",
    [
        ["--compare", "localhost:8001"],
        ["--compare", "file:///etc/passwd"],
        ["--compare", "http://"],
        ["--compare", "http://user:pass@host"],
        ["--compare", "http://host/?x=1"],
        ["--compare", "http://host:1", "--no-playground"],
    ],
)
@pytest.mark.parametrize("engine", ["onnx", "vllm"])
def test_what_is_no_server_is_refused_before_the_model_is_opened(
    tmp_path: Path, options: list[str], engine: str
) -> None:
    done = lathe("serve", str(tmp_path / "missing"), "--engine", engine, *options)
    assert done.exit_code == 1
    assert "--compare" in done.output
