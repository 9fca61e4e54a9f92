"""Bad requests: one clear answer in OpenAI's shape each, and no harm to anybody else."""

from __future__ import annotations

import json
import random
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from lathe.serving.api.app import ROUTES
from support.tiny_server import CONTEXT, NAME, Running, running

MESSAGES = [{"role": "user", "content": "x"}]


def check_error(response: httpx.Response) -> dict[str, Any]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert len(response.content) < 8192
    return error


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [320]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [1.5]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": [5] * CONTEXT}, "prompt"),
        ({"prompt": "a" * 100_000}, "prompt"),
        ({"prompt": ["a"] * 21}, "prompt"),
        ({"prompt": ["a"] * 10**5}, "prompt"),
        ({"prompt": [5] * 10**6}, "prompt"),
        ({"prompt": [[5] * 10**6, [5]]}, "prompt"),
        ({"logit_bias": {str(token): 1 for token in range(10**5)}}, "logit_bias"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": CONTEXT}, "prompt"),
        ({"n": 0}, "n"),
        ({"n": 9}, "n"),
        ({"n": 10**9}, "n"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"seed": 2**63}, "seed"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"frequency_penalty": -3}, "frequency_penalty"),
        ({"logprobs": 6}, "logprobs"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"stop": 3}, "stop"),
        ({"logit_bias": {"foo": 1}}, "logit_bias"),
        ({"logit_bias": {"320": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"best_of": 2, "n": 3}, "best_of"),
        ({"best_of": 9}, "best_of"),
        ({"best_of": True, "stream": True, "n": 2}, "best_of"),
        ({"best_of": -1}, "best_of"),
        ({"store": True}, "store"),
        ({"request_id": "x"}, "request_id"),
        ({"priority": 1}, "priority"),
        ({"user": 5}, "user"),
        ({"min_p": False}, "min_p"),
        ({"suffix": "x"}, "suffix"),
        ({"guided_regex": "(a+)+"}, "guided_regex"),
        ({"response_format": {"type": "grammar"}}, "response_format"),
        ({"chat_template": "{{ 1 }}"}, "chat_template"),
        ({"model": None}, "model"),
    ],
)
def test_bad_fields_are_named(server: Running, change: dict[str, Any], param: str):
    response = server.post("completions", **({"prompt": "x"} | change))
    assert response.status_code == 400
    assert check_error(response)["param"] == param


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ([1.5], "prompt.0: Input should be a valid integer"),
        ([1, 2, "x"], "prompt.2: Input should be a valid integer"),
        (["a", 1], "prompt.1: Input should be a valid string"),
        (["a", None], "prompt.1: Input should be a valid string"),
        ([[1], [2, 2.5]], "prompt.1.1: Input should be a valid integer"),
        ([[1], "a"], "prompt.1: Input should be a valid list"),
        ([-1], "prompt.0: Input should be greater than or equal to 0"),
        (5, "prompt: Input should be a valid string or list"),
        ({"a": 1}, "prompt: Input should be a valid string or list"),
        (True, "prompt: Input should be a valid string or list"),
    ],
)
def test_s7_the_complaint_is_about_the_kind_of_prompt_that_it_is(server: Running, prompt: Any, words: str):
    error = check_error(server.post("completions", prompt=prompt))
    assert (error["param"], error["message"]) == ("prompt", words)


@pytest.mark.parametrize(
    ("path", "change", "words"),
    [
        ("completions", {"max_completion_tokens": 5}, "here it is max_tokens"),
        ("completions", {"messages": []}, "send them to /v1/chat/completions"),
        ("completions", {"tools": [{}]}, "only /v1/chat/completions has it"),
        ("completions", {"top_logprobs": 3}, "here logprobs is their number"),
        ("chat/completions", {"prompt": "x"}, "send messages, or use /v1/completions"),
        ("chat/completions", {"input": "x"}, "send it to /v1/responses"),
        ("chat/completions", {"max_output_tokens": 3}, "here it is max_tokens"),
        ("chat/completions", {"enable_thinking": False}, "use chat_template_kwargs"),
        ("chat/completions", {"thinking": {"type": "disabled"}}, "use chat_template_kwargs"),
        ("chat/completions", {"include_reasoning": False}, "thinking is always given"),
    ],
)
def test_fields_of_other_routes_and_servers_get_a_remedy(
    server: Running, path: str, change: dict[str, Any], words: str
):
    start: dict[str, Any] = {"prompt": "x"} if path == "completions" else {"messages": MESSAGES}
    response = server.post(path, **start | change)
    assert (response.status_code, response.json()["error"]["param"]) == (400, next(iter(change)))
    assert words in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "change",
    [
        {"response_format": {"type": "json_schema"}},
        {"response_format": "json"},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}, "y": 1}}},
        {"stop": list("abcde")},
        {"stop": ["a", 5]},
        {"messages": []},
        {"messages": ["a"]},
        {"messages": [{"role": "user", "content": ["a"]}]},
        {"messages": [{"role": "user", "content": "a", "colour": "red"}]},
        {"messages": [{"content": "a"}]},
        {"stream": True, "stream_options": {"colour": "red"}},
        {"logit_bias": [1]},
        {"tools": [{"type": "function"}]},
        {"tools": [{"type": "function", "function": {"name": "f", "colour": "red"}}]},
    ],
)
def test_complaints_are_not_in_the_words_of_a_library(server: Running, change: dict[str, Any]):
    response = server.post("chat/completions", **{"messages": MESSAGES} | change)
    message = response.json()["error"]["message"]
    assert response.status_code == 400
    assert response.json()["error"]["param"] in change
    for word in ("Value error", "dictionary", "validation", "Extra inputs", "Field required", "instance"):
        assert word not in message


def test_misspelt_fields_get_a_suggestion(server: Running):
    error = check_error(server.post("completions", prompt="x", temprature=0))
    assert "did you mean 'temperature'" in error["message"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"[" * 100_000, 400),
        (b'{"a":' * 100_000, 400),
        (b'{"model": "tiny", "prompt": "\xff"}', 400),
        (b'{"model": "tiny", "prompt": "\\ud800"}', 400),
        (b'{"model": "tiny", "prompt": "x", "temperature": NaN}', 400),
        (b'{"model": "tiny", "prompt": "x", "temperature": 1e999}', 400),
        (b'{"model": "tiny", "prompt": "x", "seed": 1' + b"0" * 5000 + b"}", 400),
        (b'{"' + b"k" * 100_000 + b'": 1, "model": "tiny", "prompt": "x"}', 400),
        (b" " * (4 * 2**20 + 1), 413),
    ],
)
def test_bad_bodies(server: Running, body: bytes, status: int):
    for path in ("completions", "chat/completions", "responses"):
        headers = {"content-type": "application/json"}
        response = httpx.post(f"{server.url}/v1/{path}", content=body, headers=headers)
        assert response.status_code == status
        check_error(response)


def test_a_body_of_unknown_length_is_cut_off_too(server: Running):
    def endless() -> Any:
        while True:
            yield b" " * 2**20

    headers = {"content-type": "application/json"}
    try:
        response = httpx.post(f"{server.url}/v1/completions", content=endless(), headers=headers)
    except httpx.WriteError:  # the server closed the connection while we were still sending
        return
    assert response.status_code == 413


def test_other_statuses_have_the_same_shape(server: Running):
    def get(path: str, method: str = "GET", **options: Any) -> httpx.Response:
        return httpx.request(method, f"{server.url}{path}", **options)

    for response, status in [
        (get("/nope"), 404),
        (get("/v1/embeddings", "POST", json={}), 404),
        (get("/v1/completions"), 405),
        (get("/v1/models", "DELETE"), 405),
        (get("/v1/models/../../etc/passwd"), 404),
        (get("/v1/models/other/model"), 404),
        (get("/v1/completions", "POST", content=b"{}", headers={"content-type": "text/plain"}), 415),
        (server.post("completions", model="other", prompt="x"), 404),
    ]:
        assert response.status_code == status
        check_error(response)


def test_the_schema_lists_every_route(server: Running):
    document = httpx.get(f"{server.url}/openapi.json").json()
    paths = {route.path.replace("{id:path}", "{id}") for route in ROUTES} - {"/openapi.json"}
    assert set(document["paths"]) == paths
    fields = document["components"]["schemas"]["ChatBody"]["properties"]
    assert {"messages", "response_format", "max_completion_tokens"} <= set(fields)


def test_models_and_version(client: openai.OpenAI, server: Running):
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).owned_by == "lathe"
    assert httpx.get(f"{server.url}/version").json()["version"]


def test_raw_garbage_on_the_socket_is_survived(server: Running):
    host, port = server.url.removeprefix("http://").split(":")
    for garbage in (
        b"\x00" * 100,
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
    ):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(garbage)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass
    assert httpx.get(f"{server.url}/health/ready").status_code == 200


def random_value(rng: random.Random, depth: int = 0) -> Any:
    simple = [None, True, -1, 0, 3, 2**70, 0.5, 1e308, "", "x", "</s>", "\u0000", "😀", "auto", "none"]
    if depth > 2 or rng.random() < 0.7:
        return rng.choice(simple)
    if rng.random() < 0.5:
        return [random_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {str(rng.choice(simple)): random_value(rng, depth + 1) for _ in range(rng.randrange(4))}


def test_fuzzed_fields_never_crash_and_never_harm_good_requests(artefact_dir: Path):
    rng = random.Random(0)
    fields = [
        "prompt",
        "messages",
        "n",
        "stream",
        "stream_options",
        "temperature",
        "top_p",
        "top_k",
        "seed",
        "stop",
        "echo",
        "logprobs",
        "top_logprobs",
        "logit_bias",
        "max_completion_tokens",
        "min_tokens",
        "ignore_eos",
        "presence_penalty",
        "frequency_penalty",
        "best_of",
        "response_format",
        "tools",
        "user",
        "x",
    ]
    good = {"prompt": "The lazy dog", "max_tokens": 200, "ignore_eos": True, "seed": 9}
    with running(artefact_dir, max_queue=50) as server, ThreadPoolExecutor(4) as pool:
        alone = server.complete(**good)["choices"]
        survivors = [pool.submit(server.complete, **good) for _ in range(4)]
        with httpx.Client(base_url=f"{server.url}/v1") as http:
            for _ in range(250):
                path, base = rng.choice(
                    [
                        ("/completions", {"prompt": "x"}),
                        ("/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
                    ]
                )
                changes = {name: random_value(rng) for name in rng.sample(fields, rng.randint(1, 3))}
                response = http.post(path, json={"model": NAME, "max_tokens": 2} | base | changes)
                assert response.status_code in (200, 400), json.dumps(changes)
                if response.status_code == 400:
                    check_error(response)
        assert all(survivor.result()["choices"] == alone for survivor in survivors)
        assert server.counter("lathe_requests_total", endpoint="completions", outcome="error") == 0


def test_the_key_guards_everything_but_the_probes(artefact_dir: Path):
    with running(artefact_dir, api_key="secret") as server:
        for path in ("/v1/models", "/metrics", "/version", "/nope", "/health/../v1/models", "//v1/models"):
            for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic secret"}):
                response = httpx.get(server.url + path, headers=headers)
                assert response.status_code == 401
                check_error(response)
        for host in ("/?", "/#", "x/health/live?"):
            response = httpx.get(f"{server.url}/v1/models", headers={"host": host})
            assert response.status_code in (400, 401)
        for path in ("/health", "/health/live", "/health/ready"):
            assert httpx.get(server.url + path).status_code == 200
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="secret") as client:
            assert client.models.list().data
        with (
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="guess") as client,
            pytest.raises(openai.AuthenticationError),
        ):
            client.models.list()
