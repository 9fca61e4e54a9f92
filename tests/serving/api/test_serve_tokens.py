from __future__ import annotations

from typing import Any

import httpx
import pytest
from tiny_server import CONTEXT, NAME, Running

TEXT = "naïve 東京 fox"


def post(server: Running, path: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/{path}", json=body, timeout=30)


def test_there_and_back(server: Running):
    answer = post(server, "tokenize", model=NAME, prompt=TEXT, return_token_strs=True).json()
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
    assert answer["max_model_len"] == CONTEXT
    assert post(server, "detokenize", tokens=answer["tokens"]).json() == {"prompt": "<s>" + TEXT}
    plain = post(server, "tokenize", prompt=TEXT, add_special_tokens=False).json()
    assert plain["tokens"] == answer["tokens"][1:]


def test_a_prompt_has_as_many_tokens_as_it_is_billed(server: Running):
    messages = [{"role": "user", "content": TEXT}]
    chat = server.post("chat/completions", messages=messages, max_tokens=1).json()
    assert post(server, "tokenize", messages=messages).json()["count"] == chat["usage"]["prompt_tokens"]
    count = post(server, "tokenize", prompt=TEXT).json()["count"]
    assert count == server.complete(TEXT, max_tokens=1)["usage"]["prompt_tokens"]


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("tokenize", {}, 400, "prompt"),
        ("tokenize", {"prompt": "x", "messages": [{"role": "user", "content": "x"}]}, 400, "prompt"),
        ("tokenize", {"prompt": ["x"]}, 400, "prompt"),
        ("tokenize", {"messages": []}, 400, "messages"),
        ("tokenize", {"prompt": "x", "colour": 1}, 400, "colour"),
        ("tokenize", {"prompt": "x" * 100_000}, 400, "prompt"),
        ("tokenize", {"prompt": "x", "model": "other"}, 404, "model"),
        ("detokenize", {}, 400, "tokens"),
        ("detokenize", {"tokens": []}, 400, "tokens"),
        ("detokenize", {"tokens": [320]}, 400, "tokens"),
        ("detokenize", {"tokens": [-1]}, 400, "tokens"),
        ("detokenize", {"tokens": [1] * (CONTEXT + 1)}, 400, "tokens"),
    ],
)
def test_what_cannot_be_converted_is_named(
    server: Running, path: str, body: dict[str, Any], status: int, param: str
):
    response = post(server, path, **body)
    assert response.status_code == status
    assert response.json()["error"]["param"] == param
