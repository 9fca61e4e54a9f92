"""Where an answer ends: stop strings, special tokens, tokens asked for at least."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from support.tiny_server import NAME, Running

USER, ASSISTANT, EOS = 2, 3, 1
MESSAGES = [{"role": "user", "content": "The fox?"}]


@pytest.fixture(scope="module")
def often(server: Running) -> dict[str, Any]:
    """What makes special tokens likely, and all others ASCII."""
    pieces = {token: server.service.tokenizer.token_bytes(token) for token in range(320)}
    broken = {str(token): -100 for token, piece in pieces.items() if not piece.isascii()}
    bias = broken | {"0": -100, "4": -100, str(USER): 6, str(ASSISTANT): 6}
    return {"logit_bias": bias, "ignore_eos": True}


def answer(server: Running, endpoint: str, stream: bool = False, **body: Any) -> dict[str, Any]:
    """The choices' texts and finish reasons, and the tokens generated, of a completion or a chat."""
    asked = {"prompt": "The quick"} if endpoint == "completions" else {"messages": MESSAGES}
    asked |= {"model": NAME, "max_tokens": 30} | body
    if stream:
        asked |= {"stream": True, "stream_options": {"include_usage": True}}
    response = httpx.post(f"{server.url}/v1/{endpoint}", json=asked, timeout=30)
    assert response.status_code == 200, response.text
    if not stream:
        document = response.json()
        choices = document["choices"]
        texts = [c["text"] if "text" in c else c["message"]["content"] for c in choices]
        reasons = [c["finish_reason"] for c in choices]
        return {"texts": texts, "reasons": reasons, "tokens": document["usage"]["completion_tokens"]}
    lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: {")]
    events = [json.loads(line) for line in lines]
    found: dict[int, list[Any]] = {}
    for choice in (choice for event in events for choice in event["choices"]):
        text = choice["text"] if "text" in choice else choice["delta"].get("content", "")
        part = found.setdefault(choice["index"], ["", None])
        part[0], part[1] = part[0] + text, choice["finish_reason"] or part[1]
    parts = [found[index] for index in sorted(found)]
    return {
        "texts": [text for text, _ in parts],
        "reasons": [reason for _, reason in parts],
        "tokens": events[-1]["usage"]["completion_tokens"],
    }


BOTH = pytest.mark.parametrize("endpoint", ["completions", "chat/completions"])
STREAMED = pytest.mark.parametrize("stream", [False, True])


@BOTH
@STREAMED
@pytest.mark.parametrize("stop", ["<|user|>", ["x" * 50, "<|user|>", "<|system|>", "never"]])
def test_s1_a_stop_string_that_is_a_special_token_stops_at_it(
    server: Running, endpoint: str, stream: bool, stop: Any
):
    found = answer(server, endpoint, stream, stop=stop, logit_bias={str(USER): 100}, n=2)
    assert found == {"texts": ["", ""], "reasons": ["stop", "stop"], "tokens": 2}


@BOTH
@STREAMED
@pytest.mark.parametrize(
    ("stop", "seed"),
    [
        (["<|user|>"], 0),
        (["<|assistant|><|user|>"], 1),
        (["e<|user|>", "<|user|>l"], 2),
        (["ser", "<|assistant|><|assistant|><|user|>"], 3),
    ],
)
def test_s1_stops_with_special_tokens_are_found_in_the_whole_text_and_none_is_shown(
    server: Running, endpoint: str, stream: bool, seed: int, stop: list[str], often: dict[str, Any]
):
    """Neither is any found in the name of a special token alone, which is no part of the text."""
    free = answer(server, endpoint, seed=seed, skip_special_tokens=False, n=3, **often)
    found = answer(server, endpoint, stream, seed=seed, stop=stop, n=3, **often)
    for whole, text, reason in zip(free["texts"], found["texts"], found["reasons"], strict=True):
        symbols = {"<|user|>": "\ud800", "<|assistant|>": "\ud801"}
        for name, symbol in symbols.items():
            whole = whole.replace(name, symbol)
        written = list(stop)
        for name, symbol in symbols.items():
            written = [one.replace(name, symbol) for one in written]
        ends = [at for one in written if (at := whole.find(one)) >= 0]
        shown = whole[: min(ends)] if ends else whole
        assert text == shown.replace("\ud800", "").replace("\ud801", "")
        assert reason == ("stop" if ends else "length")


@BOTH
@STREAMED
def test_s1_special_tokens_are_shown_on_request_and_stop_strings_match_them(
    server: Running, endpoint: str, stream: bool, often: dict[str, Any]
):
    shown = answer(server, endpoint, stream, seed=2, skip_special_tokens=False, **often)
    hidden = answer(server, endpoint, stream, seed=2, **often)
    assert "<|" in shown["texts"][0]
    plain = shown["texts"][0].replace("<|user|>", "").replace("<|assistant|>", "")
    assert hidden["texts"] == [plain]
    assert "t|>" in shown["texts"][0]
    stopped = answer(server, endpoint, stream, seed=2, skip_special_tokens=False, stop="t|>", **often)
    assert stopped["texts"] == [shown["texts"][0].partition("t|>")[0]]
    assert stopped["reasons"] == ["stop"]


@BOTH
@STREAMED
def test_s1_stop_token_ids_end_the_answer_and_are_not_shown(server: Running, endpoint: str, stream: bool):
    bias = {"logit_bias": {"60": 100}}
    found = answer(server, endpoint, stream, stop_token_ids=[60, 7], min_tokens=3, n=2, **bias)
    # the 4th token is the first that may end it
    assert found["reasons"] == ["stop", "stop"]
    assert found["tokens"] == 2 * 4
    kept = answer(server, endpoint, stream, stop_token_ids=[60], include_stop_str_in_output=True, **bias)
    assert kept["texts"] == [server.service.tokenizer.token_bytes(60).decode()]


def test_s1_a_stop_token_wins_over_ignore_eos(server: Running):
    bias = {"logit_bias": {str(EOS): 100}, "ignore_eos": True, "max_tokens": 5}
    assert answer(server, "completions", **bias)["tokens"] == 5
    assert answer(server, "completions", stop_token_ids=[EOS], **bias)["tokens"] == 1


@STREAMED
def test_s1_the_stop_string_is_shown_on_request(server: Running, stream: bool):
    free = answer(server, "completions", seed=3)["texts"][0]
    stop = free[4:7]
    asked = {"seed": 3, "stop": [stop], "include_stop_str_in_output": True}
    assert answer(server, "completions", stream, **asked)["texts"] == [free[: free.find(stop) + 3]]
    forced = {"logit_bias": {str(USER): 100}, "stop": "<|user|>", "include_stop_str_in_output": True}
    assert answer(server, "completions", stream, **forced)["texts"] == ["<|user|>"]


def test_s1_an_end_token_is_shown_where_special_tokens_and_stops_are(server: Running):
    bias = {"logit_bias": {str(EOS): 100}, "skip_special_tokens": False}
    assert answer(server, "completions", **bias)["texts"] == [""]
    assert answer(server, "completions", include_stop_str_in_output=True, **bias)["texts"] == ["</s>"]


def test_s1_offsets_count_what_is_shown(server: Running, often: dict[str, Any]):
    document = server.complete(seed=1, max_tokens=30, skip_special_tokens=False, logprobs=0, **often)
    choice = document["choices"][0]
    places = zip(choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"], strict=True)
    named = [(token, at) for token, at in places if token.startswith("<|")]
    assert named
    assert all(choice["text"][at:].startswith(token) for token, at in named)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"stop_token_ids": [320]}, "stop_token_ids"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"stop_token_ids": 5}, "stop_token_ids"),
        ({"stop_token_ids": list(range(300))}, "stop_token_ids"),
        ({"stop_token_ids": ["a"]}, "stop_token_ids"),
        ({"skip_special_tokens": "maybe"}, "skip_special_tokens"),
        ({"min_tokens": 50, "max_tokens": 5}, "min_tokens"),
        ({"min_tokens": 6, "max_tokens": 5}, "min_tokens"),
        ({"min_tokens": 513}, "min_tokens"),
        ({"priority": 3}, "priority"),
        ({"min_p": 2}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
    ],
)
@BOTH
def test_s1_s3_what_cannot_be_is_named(server: Running, endpoint: str, change: dict[str, Any], param: str):
    asked: dict[str, Any] = {"prompt": "x"} if endpoint == "completions" else {"messages": MESSAGES}
    response = server.post(endpoint, **asked, **change)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


def test_s3_the_default_limit_counts_too(server: Running):
    response = server.post("completions", prompt="x", min_tokens=17)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "min_tokens")
    response = server.post("chat/completions", messages=MESSAGES, min_tokens=9, max_completion_tokens=8)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "min_tokens")
    assert server.post("completions", prompt="x", min_tokens=5, max_tokens=5).status_code == 200


@BOTH
@STREAMED
@pytest.mark.parametrize(("stop", "seed"), [("e", 0), (["e", " t", "a", "o"], 1), ("the", 2)])
def test_s3_no_stop_string_completes_within_the_minimum(
    server: Running, endpoint: str, stream: bool, stop: Any, seed: int
):
    asked = {"seed": seed, "ignore_eos": True}
    free = answer(server, endpoint, **asked)["texts"][0]
    found = answer(server, endpoint, stream, min_tokens=15, stop=stop, **asked)
    assert 15 < found["tokens"] <= 30
    assert free.startswith(found["texts"][0])
    early = answer(server, endpoint, max_tokens=15, **asked)["texts"][0]
    assert found["texts"][0].startswith(early.rstrip("\ufffd")[:-3])
    if found["reasons"] == ["length"]:
        assert found["texts"][0] == free


def test_s3_no_stop_token_completes_within_the_minimum(server: Running):
    ending = {"logit_bias": {"60": 100, str(EOS): 100}, "stop_token_ids": [60]}
    assert answer(server, "completions", min_tokens=7, **ending)["tokens"] == 8
