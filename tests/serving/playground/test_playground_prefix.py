"""The page behind a proxy that shows the server under a path of its own, and takes that path off."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from lathe.serving.playground.pages import Playground, Setup
from support.other_server import serving
from support.tiny_server import NAME, Running, running

STATIC = Path(__file__).parents[3] / "serving" / "playground" / "static"
PREFIXES = ("/lathe", "/a/b-c")


@contextmanager
def proxy(behind: str, prefix: str, *, tell: bool) -> Iterator[str]:
    """A reverse proxy as nginx's `location PREFIX/ { proxy_pass http://behind/; }`; `tell`: by headers."""

    async def relay(request: Request) -> Response:
        path = request.scope["path"]
        if path != prefix and not path.startswith(f"{prefix}/"):
            return PlainTextResponse("another application", 404)
        headers = {name: value for name, value in request.headers.items() if name != "connection"}
        headers |= {"x-forwarded-prefix": prefix, "x-forwarded-proto": "https"} if tell else {}
        address = f"{behind}{path.removeprefix(prefix) or '/'}"
        async with httpx.AsyncClient(timeout=30) as client:
            answer = await client.request(
                request.method,
                address,
                params=request.query_params,
                headers=headers,
                content=await request.body(),
            )
        kept = {k: v for k, v in answer.headers.items() if k in ("content-type", "location")}
        return Response(answer.content, answer.status_code, kept)

    app = Starlette(routes=[Route("/{path:path}", relay, methods=["GET", "POST"])])
    with serving(app) as url:
        yield url


@pytest.fixture(scope="module")
def behind(artefact_dir: Path) -> Iterator[Running]:
    setup = Setup(model=NAME, chat=True, target_ms=None, context=512, compare=False)
    with running(artefact_dir, playground=Playground(setup)) as found:
        yield found


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(("end", "tell"), [("/", False), ("/", True), ("", True)])
def test_s9_the_page_finds_its_files_under_a_prefix(
    behind: Running, prefix: str, end: str, tell: bool
) -> None:
    """Without the slash at its end a page has to be told the prefix: relative addresses go beside it."""
    with proxy(behind.url, prefix, tell=tell) as url:
        page = httpx.get(f"{url}{prefix}{end}")
        assert page.status_code == 200
        found = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(found) == 3
        for place in found:
            address = urljoin(str(page.url), place)
            assert httpx.get(address).status_code == 200, address
            if address.endswith(".js"):
                check_modules(address)


def check_modules(address: str) -> None:
    """Every module that a module imports, and what they ask, from above the first one's folder."""
    script = httpx.get(address)
    assert script.status_code == 200, address
    for name in re.findall(r'from "(\./[^"]+)"', script.text):
        check_modules(urljoin(address, name))
    if address.endswith("/app.js"):
        root = urljoin(address, "..")
        for path in ("playground/setup", "v1/models", "metrics"):
            assert httpx.get(urljoin(root, path)).status_code == 200


def test_s9_no_file_names_a_path_from_the_root() -> None:
    for file in STATIC.iterdir():
        if file.suffix in (".js", ".html", ".css"):
            text = re.sub(
                r"<noscript>.*</noscript>|<code>[^<]*</code>|^ *//.*$", "", file.read_text(), flags=re.M
            )
            assert not re.findall(r"""["'`(]/(?:playground|v1|metrics|compare)""", text), file.name


@pytest.mark.parametrize(
    "told", ["//evil.example", "/a//b", '/"><script>', "http://evil.example", "/a b", "/../..\\x", "a", "/"]
)
def test_s9_a_prefix_that_is_none_is_not_shown(behind: Running, told: str) -> None:
    page = httpx.get(behind.url, headers={"x-forwarded-prefix": told})
    assert page.text == (STATIC / "index.html").read_text()


@pytest.mark.parametrize(
    ("method", "path", "place"),
    [
        ("GET", "/health/", "/health"),
        ("GET", "/metrics/?a=1&b=%2F", "/metrics?a=1&b=%2F"),
        ("POST", "/v1/chat/completions/", "/v1/chat/completions"),
        ("GET", "/playground/setup/", "/playground/setup"),
        ("POST", "/v1/responses/", "/v1/responses"),
        ("GET", "/v1/models/?a=b", "/v1/models?a=b"),
    ],
)
def test_s9_redirects_keep_scheme_host_and_prefix(
    behind: Running, method: str, path: str, place: str
) -> None:
    with proxy(behind.url, "/lathe", tell=False) as url:
        answer = httpx.request(method, f"{url}/lathe{path}")
        assert answer.status_code == 307
        for shown in (f"{url}/lathe", "https://example.com/lathe"):
            assert urljoin(f"{shown}{path}", answer.headers["location"]) == f"{shown}{place}"


def test_s9_the_description_of_the_api_tells_the_prefix(behind: Running) -> None:
    plain = httpx.get(f"{behind.url}/openapi.json").json()
    assert "servers" not in plain
    for told, shown in (("/lathe", "/lathe"), ("/a/b/", "/a/b"), ("//evil.example", None), ("/", None)):
        document = httpx.get(f"{behind.url}/openapi.json", headers={"x-forwarded-prefix": told}).json()
        assert document == (plain | {"servers": [{"url": shown}]} if shown else plain)


def test_s9_what_is_not_there_is_still_not_there(behind: Running) -> None:
    for path in ("/nothing/", "/v1/nothing/", "//", "/health//", "/playground/"):
        answer = httpx.get(behind.url + path)
        assert answer.status_code == 404
        assert answer.json()["error"]["type"] == "not_found_error"


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")
def test_s9_and_l1_the_scripts_as_a_browser_runs_them(behind: Running, tmp_path: Path) -> None:
    """Node loads the modules from where a proxy would show them, and reads a stream through their reader."""
    copy = tmp_path / "lathe" / "playground"
    copy.mkdir(parents=True)
    for file in STATIC.glob("*.js"):
        (copy / file.name.replace(".js", ".mjs")).write_text(file.read_text().replace('.js"', '.mjs"'))
    done = subprocess.run(
        ["node", "--input-type=module", "-e", CHECK.replace("COPY", copy.as_uri())],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


CHECK = r"""
import assert from "node:assert/strict";
const { pieceOf } = await import("COPY/piece.mjs");
const { stream } = await import("COPY/api.mjs");
const carries = (delta) => pieceOf({ delta }).carries;
for (const delta of [
  { content: "a" }, { content: " " }, { reasoning: "a" }, { reasoning_content: "a", content: "" },
  { refusal: "no" }, { tool_calls: [{ index: 0, function: { arguments: "{" } }] },
  { tool_calls: [{ index: 0, id: "x", type: "function", function: { name: "f", arguments: "" } }] },
  { function_call: { arguments: "{" } }, { audio: { transcript: "a" } },
  { content: [{ type: "text", text: "a" }] },
  { role: "assistant", content: "a" }, { something_new: "a" },
]) assert.equal(carries(delta), true, JSON.stringify(delta));
for (const delta of [
  {}, { role: "assistant" }, { role: "assistant", content: "" }, { content: null }, { tool_calls: [] },
  { tool_calls: [{ index: 0, id: "x", type: "function", function: { name: "", arguments: "" } }] },
  { audio: { id: "a", expires_at: 1 } }, { content: [] }, { reasoning: "", content: "" },
]) assert.equal(carries(delta), false, JSON.stringify(delta));
assert.equal(pieceOf({ text: "a" }).text, "a");
assert.equal(pieceOf({ text: "" }).carries, false);
assert.equal(pieceOf(undefined).carries, false);
const both = pieceOf({ delta: { reasoning: "hm", content: "so" } });
assert.deepEqual(both, { text: "so", reasoning: "hm", carries: true });

let asked;
const answerWith = (text) => {
  globalThis.fetch = async (address) => {
    asked = String(address);
    return new Response(text);
  };
};
const all = async () => {
  const events = [];
  for await (const event of stream("v1/completions", {}, undefined)) events.push(event);
  return events;
};
answerWith(': waiting\n\n: waiting\n\ndata: {"choices":\ndata: []}\r\n\r\n' +
  'event: x\ndata: {"a": 1}\n\ndata: [DONE]\n\n');
assert.deepEqual(await all(), [{ choices: [] }, { a: 1 }]);
assert.ok(asked.endsWith("/lathe/v1/completions"), asked);
answerWith('data: {"choices": [{"text": "a", "finish_reason": "stop"}]}\n\n');
assert.equal((await all()).length, 1);
answerWith('data: {"choices": [{"text": "a"}]}\n\n');
await assert.rejects(all(), /broken off/);
let subnet;
globalThis.fetch = async () => new Response("data: [DONE]\n\n", { headers: { "x-lathe-subnet": "2x" } });
const heads = (headers) => (subnet = headers.get("x-lathe-subnet"));
for await (const _ of stream("v1/completions", {}, undefined, heads));
assert.equal(subnet, "2x");
answerWith('data: {"error": {"message": "told"}}\n\n');
await assert.rejects(all(), /told/);
"""
