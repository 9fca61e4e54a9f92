"""Servers that are not at /v1, want other fields, send one elsewhere, or are reached in other ways."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import typer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from typer.testing import CliRunner

from lathe.artefact.errors import UserError
from lathe.serving.cli.loadtest import loadtest
from lathe.serving.loadtest.address import read_address
from lathe.serving.loadtest.compare import run
from lathe.serving.loadtest.load import Load
from lathe.serving.loadtest.mock import Mock
from lathe.serving.loadtest.prompts import PromptChoice
from lathe.serving.loadtest.report import notes
from lathe.serving.loadtest.testbed import Setup
from support.other_server import serving

app = typer.Typer()
app.command()(loadtest)
SMALL = ["--requests", "3", "--warmup", "0", "--output-tokens", "3", "--prompt-tokens", "8"]
LOAD = Load(concurrency=2, requests=4, warmup=0, output_tokens=3)


@dataclass
class Strict:
    """Takes `known` fields only and refuses one other at a time, in the words of `refusal`."""

    known: frozenset[str]
    refusal: Callable[[str], Any]
    status: int = 400
    usage: bool = True
    bodies: list[dict[str, Any]] = field(default_factory=list)

    def app(self) -> Starlette:
        paths = ("/v1/completions", "/v1/chat/completions")
        return Starlette(routes=[Route(path, self._answer, methods=["POST"]) for path in paths])

    async def _answer(self, request: Request) -> Response:
        body = await request.json()
        if unknown := sorted(body.keys() - self.known):
            return JSONResponse(self.refusal(unknown[0]), self.status)
        self.bodies.append(body)
        tokens = body.get("max_tokens") or body.get("max_completion_tokens")
        usage = {"prompt_tokens": 8, "completion_tokens": tokens} if self.usage else None
        if not body.get("stream"):
            return JSONResponse({"choices": [{"text": "x"}], "usage": usage})
        asked = (body.get("stream_options") or {}).get("include_usage")
        return StreamingResponse(
            self._stream(tokens, usage if asked else None), media_type="text/event-stream"
        )

    async def _stream(self, tokens: int, usage: Mapping[str, int] | None) -> Any:
        for number in range(tokens):
            time.sleep(0.002)
            finish = "length" if number == tokens - 1 else None
            choice = {"text": " a", "delta": {"content": " a"}, "finish_reason": finish}
            yield f"data: {json.dumps({'choices': [choice]})}\n\n"
        if usage:
            yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n"
        yield "data: [DONE]\n\n"


OPENAI = frozenset(
    {"model", "messages", "prompt", "max_completion_tokens", "temperature", "stream", "stream_options"}
)
PLAIN = frozenset({"model", "messages", "prompt", "max_tokens", "stream"})


def openais(name: str) -> Any:
    if name == "max_tokens":
        message = (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
            "'max_completion_tokens' instead."
        )
        return {"error": {"message": message, "param": name, "code": "unsupported_parameter"}}
    return {"error": {"message": f"Unrecognized request argument supplied: {name}", "param": None}}


def pydantics(name: str) -> Any:
    return {
        "detail": [
            {"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted"}
        ]
    }


def test_l3_openais_own_fields_are_enough() -> None:
    strict = Strict(OPENAI, openais)
    with serving(strict.app()) as url:
        found = run(url, LOAD, setup=Setup(PromptChoice(tokens=8), model="m"))
    system = found["systems"]["server"]
    assert (system["failed"], system["output_tokens"], system["tokens_counted_by"]) == (0, 12, "server")
    assert all(body.keys() <= OPENAI for body in strict.bodies)
    told = " ".join(notes(found))
    assert "refuses ignore_eos: left out, answers may end before their length" in told
    assert "max_completion_tokens in place of max_tokens" in told
    assert found["systems"]["server"]["remarks"] == system["remarks"] != []


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_l3_a_server_that_takes_next_to_nothing(endpoint: Any) -> None:
    """Without stream_options it has no usage: chunks are counted, and that is told."""
    strict = Strict(PLAIN, pydantics, status=422)
    load = Load(concurrency=3, requests=5, warmup=1, output_tokens=3, endpoint=endpoint)
    with serving(strict.app()) as url:
        found = run(url, load, setup=Setup(PromptChoice(tokens=8), model="m"))
    system = found["systems"]["server"]
    assert (system["failed"], system["output_tokens"], system["tokens_counted_by"]) == (0, 15, "chunks")
    told = " ".join(notes(found))
    assert "each chunk is counted as one token" in told
    for name in ("ignore_eos", "temperature", "stream_options"):
        assert f"refuses {name}" in told


def test_l3_what_the_user_adds_is_sent_and_not_dropped() -> None:
    strict = Strict(PLAIN | {"reasoning_effort"}, pydantics)
    with serving(strict.app()) as url:
        extra = '{"reasoning_effort": "low", "ignore_eos": null, "temperature": null, "stream_options": null}'
        told = CliRunner().invoke(app, [url, *SMALL, "--model", "m", "--extra-body", extra, "--json"])
        assert told.exit_code == 0, told.output
        refused = CliRunner().invoke(app, [url, *SMALL, "--model", "m", "--extra-body", '{"seed": 1}'])
    assert {body["reasoning_effort"] for body in strict.bodies[:4]} == {"low"}
    document = json.loads(told.stdout)
    assert document["systems"]["server"]["remarks"] == []
    assert document["settings"]["extra_body"]["reasoning_effort"] == "low"
    assert isinstance(refused.exception, UserError)
    assert "seed" in str(refused.exception)


def test_l3_an_answer_that_no_limit_can_be_told_of_is_noted_in_a_search_too(tmp_path: Path) -> None:
    strict = Strict(PLAIN, pydantics)
    with serving(strict.app()) as url:
        told = CliRunner().invoke(app, [url, *SMALL, "--model", "m", "--slo", "ttft=0.01ms", "--rounds", "1"])
    assert "refuses ignore_eos" in told.stdout.replace("\n", " ")


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """A mock under other paths."""
    mock = Mock().app()
    places = {"/proxy/8000": mock, "/api": versioned("/v3"), "/v1beta/openai": versioned(""), "": mock}
    with serving(Starlette(routes=[Mount(path, served) for path, served in places.items()])) as url:
        yield url


@pytest.mark.parametrize(
    "place",
    [
        "",
        "/",
        "/v1",
        "/v1/",
        "//v1//",
        "/v1/completions",
        "/v1/models",
        "/proxy/8000",
        "/proxy/8000/v1/",
        "/api/v3",
        "/api/v3/",
        "/api/v3/completions",
        "/v1beta/openai",
        "/v1beta/openai/",
    ],
)
def test_l3_the_api_is_found(site: str, place: str) -> None:
    told = CliRunner().invoke(app, [site + place, *SMALL, "--json"])
    assert told.exit_code == 0, told.output + str(told.exception)
    system = json.loads(told.stdout)["systems"]["server"]
    assert (system["model"], system["succeeded"]) == ("mock", 3)


@pytest.mark.parametrize("place", ["/v1/chat/completions", "/api/v3/chat/completions/"])
def test_l3_an_address_of_chat_is_asked_for_chat(site: str, place: str) -> None:
    told = CliRunner().invoke(app, [site + place, *SMALL, "--json"])
    assert told.exit_code == 0, told.output + str(told.exception)
    assert json.loads(told.stdout)["settings"]["endpoint"] == "chat"
    contradicted = CliRunner().invoke(app, [site + place, *SMALL, "--endpoint", "completions"])
    assert isinstance(contradicted.exception, UserError)
    assert "--endpoint chat" in str(contradicted.exception)


def test_l3_a_server_that_lists_no_models_needs_a_name(site: str) -> None:
    with serving(Strict(OPENAI, openais).app()) as url:
        told = CliRunner().invoke(app, [url, *SMALL])
        assert isinstance(told.exception, UserError)
        assert "--model" in str(told.exception)
        assert CliRunner().invoke(app, [url, *SMALL, "--model", "m"]).exit_code == 0


def versioned(version: str) -> Starlette:
    """The mock's API under another version, and nothing else."""
    known = [route for route in Mock().app().routes if isinstance(route, Route) and "/v1" in route.path]
    routes = [
        Route(route.path.replace("/v1", version, 1), route.endpoint, methods=route.methods) for route in known
    ]
    return Starlette(routes=routes)


@pytest.mark.parametrize(
    ("text", "root", "first"),
    [
        ("http://h", "http://h", "/v1"),
        ("http://h:80/v1/chat/completions", "http://h", "/v1"),
        ("https://h/openai/v1/", "https://h/openai", "/v1"),
        ("https://h/api/v3", "https://h/api", "/v3"),
        ("https://h/v1beta/openai/", "https://h/v1beta/openai", ""),
        (
            "https://h/openai/deployments/d/chat/completions?api-version=1",
            "https://h/openai/deployments/d",
            "",
        ),
        ("https://h/gateway", "https://h/gateway", "/v1"),
        ("http://[::1]:8000/v2", "http://[::1]:8000", "/v2"),
    ],
)
def test_l3_addresses(text: str, root: str, first: str) -> None:
    found = read_address(text)
    assert (found.root, found.versions[0]) == (root, first)


@pytest.mark.parametrize("text", ["http://", "http://[::1", "https:///v1"])
def test_l3_what_is_no_address_is_the_users_error(text: str) -> None:
    with pytest.raises(UserError, match="not the address of a server"):
        read_address(text)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_l3_a_redirect_is_named_and_not_followed(status: int) -> None:
    async def elsewhere(request: Request) -> Response:
        return RedirectResponse(f"https://other.example{request.url.path}", status)

    routes = [Route("/v1/models", elsewhere), Route("/v1/completions", elsewhere, methods=["POST"])]
    for given, extra in ((routes, []), (routes[1:], ["--model", "m"])):
        with serving(Starlette(routes=given)) as url:
            told = CliRunner().invoke(app, [url, *SMALL, *extra])
        assert isinstance(told.exception, UserError)
        assert "redirects to https://other.example/v1/" in str(told.exception)
        assert "Load https://other.example/v1 " in str(told.exception)


def test_l3_a_server_with_the_other_api_only() -> None:
    strict = Strict(OPENAI, openais)
    with serving(Starlette(routes=strict.app().routes[1:])) as url:
        told = CliRunner().invoke(app, [url, *SMALL, "--model", "m"])
        assert isinstance(told.exception, UserError)
        assert "--endpoint chat" in str(told.exception)
        assert CliRunner().invoke(app, [url, *SMALL, "--model", "m", "--endpoint", "chat"]).exit_code == 0


def test_l3_a_bare_list_of_models_is_one() -> None:
    async def listed(_: Request) -> Response:
        return JSONResponse([{"id": "first"}, {"id": "second"}])

    strict = Strict(PLAIN | {"ignore_eos", "temperature", "stream_options"}, openais)
    with serving(Starlette(routes=[Route("/v1/models", listed), *strict.app().routes])) as url:
        assert run(url, LOAD)["systems"]["server"]["model"] == "first"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_l3_the_ca_of_the_environment_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        key,
        "-out",
        certificate,
        "-days",
        "2",
        "-subj",
        "/CN=127.0.0.1",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
    ]
    subprocess.run(command, check=True, capture_output=True)
    with serving(Mock().app(), ssl_certfile=certificate, ssl_keyfile=key) as url:
        told = CliRunner().invoke(app, [url, *SMALL])
        assert isinstance(told.exception, UserError)
        assert "SSL_CERT_FILE" in str(told.exception)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert CliRunner().invoke(app, [url, *SMALL]).exit_code == 0
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "absent.pem"))
        told = CliRunner().invoke(app, [url, *SMALL])
        assert isinstance(told.exception, UserError)
        assert "SSL_CERT_FILE" in str(told.exception)


def test_l3_the_proxy_of_the_environment_is_used_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain HTTP proxy gets the whole address: the mock routes by its path."""
    for name in (
        "http_proxy",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "NO_PROXY",
        "no_proxy",
        "all_proxy",
        "https_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    seen: list[str] = []
    mock = Mock().app()

    async def proxied(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            seen.append(dict(scope["headers"])[b"host"].decode())
            path = scope["path"]
            scope = {**scope, "path": "/v1" + path.partition("/v1")[2] if "/v1" in path else path}
        await mock(scope, receive, send)

    with serving(proxied) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.replace("//", "//user:secret@"))
        told = CliRunner().invoke(app, ["http://model.example", *SMALL, "--json"])
        assert told.exit_code == 0, told.output + str(told.exception)
        assert set(seen) == {"model.example"}
        remarks = json.loads(told.stdout)["systems"]["server"]["remarks"]
        assert f"through the proxy {proxy}" in remarks[0]
        assert "secret" not in told.stdout
        here = len(seen)
        with serving(Mock().app()) as url:
            assert CliRunner().invoke(app, [url, *SMALL]).exit_code == 0
        assert len(seen) == here  # nothing of this machine goes through it


def test_l3_a_proxy_that_cannot_be_used_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "nonsense://127.0.0.1:1")
    told = CliRunner().invoke(app, ["http://model.example", *SMALL])
    assert isinstance(told.exception, UserError)
    assert "proxy" in str(told.exception)
