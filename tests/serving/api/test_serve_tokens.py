from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.tiny_server import CHAT_TEMPLATE, CONTEXT, NAME, Running

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
    assert post(server, "detokenize", tokens=[]).json() == {"prompt": ""}
    assert post(server, "detokenize", tokens=[2] * 2 * CONTEXT).json() == {"prompt": "<|user|>" * 2 * CONTEXT}


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
        ("tokenize", {"prompt": "x" * 1_000_000}, 400, "prompt"),
        ("tokenize", {"prompt": "x", "model": "other"}, 404, "model"),
        ("detokenize", {}, 400, "tokens"),
        ("detokenize", {"tokens": [320]}, 400, "tokens"),
        ("detokenize", {"tokens": [-1]}, 400, "tokens"),
        ("detokenize", {"tokens": [1] * (64 * CONTEXT + 1)}, 400, "tokens"),
    ],
)
def test_what_cannot_be_converted_is_named(
    server: Running, path: str, body: dict[str, Any], status: int, param: str
):
    response = post(server, path, **body)
    assert response.status_code == status
    assert response.json()["error"]["param"] == param


def test_the_tokenizer_is_described_as_lm_eval_reads_it(server: Running, artefact_dir: Path):
    """lm-eval 0.4.13 uses a server's tokenizer that has an `eos_token` and gives a list of tokens."""
    info = httpx.get(f"{server.url}/tokenizer_info").json()
    assert (info["bos_token"], info["eos_token"], info["pad_token"]) == ("<s>", "</s>", None)
    assert info["tokenizer_class"]
    assert info["chat_template"] == CHAT_TEMPLATE
    assert str(artefact_dir) not in json.dumps(info)
    for name, token in (("bos_token", 0), ("eos_token", 1)):
        assert post(server, "tokenize", prompt=info[name], add_special_tokens=False).json()["tokens"] == [
            token
        ]


def test_texts_longer_than_the_context_are_split_into_tokens(server: Running):
    """lm-eval cuts the tokens of a document into windows itself."""
    answer = post(server, "tokenize", prompt=TEXT * 200, add_special_tokens=False).json()
    assert answer["count"] > 2 * CONTEXT
    window = answer["tokens"][100:150]
    text = post(server, "detokenize", tokens=window).json()["prompt"]
    assert text.strip("\ufffd") in TEXT * 200


def test_d20_scoring_a_prompt_gives_a_generated_token_too(server: Running):
    """lm-eval drops the last log-probability of each answer, as that of a generated token."""
    prompts = [[0, 70, 71, 72], [0, 70, 71]]
    asked = {"temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
    for choice, prompt in zip(server.complete(prompts, **asked)["choices"], prompts, strict=True):
        scores = choice["logprobs"]
        assert len(scores["token_logprobs"]) == len(prompt) + 1
        assert scores["token_logprobs"][0] is None
        assert all(score <= 0 for score in scores["token_logprobs"][1:])
    ended = server.complete(prompts[0], **asked, logit_bias={"1": 100})["choices"][0]["logprobs"]
    assert ended["tokens"][-1] == "</s>"
    assert len(ended["token_logprobs"]) == len(prompts[0]) + 1
