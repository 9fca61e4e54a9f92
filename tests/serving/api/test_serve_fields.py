"""Fields of OpenAI's that do not steer the model: taken where neutral, refused by name where not."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from support.tiny_server import NAME, Running

MESSAGES: Any = [{"role": "user", "content": "The fox?"}]
CONTENT = {"type": "content", "content": "The lazy dog."}


def chat(server: Running, **change: Any) -> Any:
    return server.post("chat/completions", messages=MESSAGES, max_tokens=4, temperature=0, **change)


@pytest.mark.parametrize(
    "neutral",
    [
        {"user": "me"},
        {"user": ""},
        {"store": False},
        {"store": None},
        {"metadata": {"k" * 64: "v" * 512}},
        {"metadata": {str(i): "" for i in range(16)}},
        {"parallel_tool_calls": True},
        {"parallel_tool_calls": False},
        {"prediction": CONTENT},
        {"prediction": CONTENT | {"content": [{"type": "text", "text": "x"}]}},
        {"safety_identifier": "x" * 64, "prompt_cache_key": "y", "prompt_cache_retention": "24h"},
        {"modalities": ["text"]},
        {"verbosity": "medium"},
        {"tools": []},
        {"priority": 0},
        {"audio": None},
        {"logit_bias": {}},
        {"logprobs": False, "top_logprobs": 0},
        {"n": 1},
        {"include_reasoning": True},
        {"prompt_cache_options": {"mode": "implicit", "ttl": "30m"}},
    ],
)
def test_neutral_values_leave_a_chat_as_it_is(server: Running, neutral: Any):
    answer = chat(server, **neutral)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"] == chat(server).json()["choices"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"user": 5}, "user"),
        ({"user": ["me"]}, "user"),
        ({"store": True}, "store"),
        ({"store": "no"}, "store"),
        ({"store": 0}, "store"),
        ({"metadata": "x"}, "metadata"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": {"a": None}}, "metadata"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
        ({"metadata": {"k": "v" * 513}}, "metadata"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"service_tier": 1}, "service_tier"),
        ({"prediction": "x"}, "prediction"),
        ({"prediction": {"type": "content"}}, "prediction"),
        ({"prediction": {"type": "x"}}, "prediction"),
        ({"prompt_cache_retention": "1h"}, "prompt_cache_retention"),
        ({"prompt_cache_key": 1}, "prompt_cache_key"),
        ({"safety_identifier": {}}, "safety_identifier"),
        ({"audio": {"voice": "alloy"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"modalities": "text"}, "modalities"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"verbosity": "low"}, "verbosity"),
        ({"priority": 1}, "priority"),
        ({"priority": False}, "priority"),
        ({"request_id": "x"}, "request_id"),
        ({"best_of": 2}, "best_of"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"repetition_penalty": True}, "repetition_penalty"),
        ({"use_beam_search": 0}, "use_beam_search"),
    ],
)
def test_other_values_are_refused_by_name(server: Running, change: Any, param: str):
    answer = chat(server, **change)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    assert param in error["message"]


@pytest.mark.parametrize("tier", ["auto", "default"])
def test_an_answer_tells_the_service_tier_that_was_used(client: openai.OpenAI, tier: Any):
    asked: Any = {"model": NAME, "messages": MESSAGES, "max_tokens": 2, "service_tier": tier}
    assert client.chat.completions.create(**asked).service_tier == "default"
    assert {part.service_tier for part in client.chat.completions.create(**asked, stream=True)} == {"default"}
    assert client.chat.completions.create(model=NAME, messages=MESSAGES, max_tokens=2).service_tier is None


def mean(choice: Any) -> float:
    return sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs)


@pytest.mark.parametrize("prompt", ["The quick", ["The quick", "The lazy"]])
def test_the_best_of_several_have_the_highest_log_probability_per_token(client: openai.OpenAI, prompt: Any):
    asked: Any = {"model": NAME, "prompt": prompt, "max_tokens": 12, "seed": 3, "logprobs": 2}
    every = client.completions.create(**asked, n=5)
    best = client.completions.create(**asked, n=2, best_of=5)
    assert [choice.index for choice in best.choices] == list(range(len(best.choices)))
    wanted = []
    for at in range(0, len(every.choices), 5):
        wanted += sorted(every.choices[at : at + 5], key=mean, reverse=True)[:2]
    assert [choice.text for choice in best.choices] == [choice.text for choice in wanted]
    assert [choice.logprobs for choice in best.choices] == [choice.logprobs for choice in wanted]
    assert best.usage == every.usage


def test_scores_that_best_of_needs_are_not_told_unless_asked_for(client: openai.OpenAI):
    asked: Any = {"model": NAME, "prompt": "The quick", "max_tokens": 5, "seed": 3, "best_of": 3}
    [choice] = client.completions.create(**asked, echo=True).choices
    assert choice.logprobs is None
    assert choice.text.startswith("The quick")
    assert client.completions.create(**asked | {"best_of": 1}, stream=True)


@pytest.mark.parametrize("path", ["chat/completions", "completions", "responses"])
def test_obfuscated_streams_have_parts_of_few_sizes(server: Running, path: str):
    given: Any = {"chat/completions": {"messages": MESSAGES}, "completions": {"prompt": "x"}}.get(
        path, {"input": "x"}
    )
    asked = given | {"seed": 1, "stream": True, "ignore_eos": True}

    def events(**options: Any) -> list[Any]:
        lines = server.post(path, **asked, stream_options=options).text.splitlines()
        data = [line.removeprefix("data: ") for line in lines if line.startswith("data: {")]
        return [(len(line.encode()) % 64, json.loads(line)) for line in data]

    hidden = [(size, event) for size, event in events(include_obfuscation=True) if "obfuscation" in event]
    assert len(hidden) > 10
    assert len({size for size, _ in hidden}) == 1
    assert not any("obfuscation" in event for _, event in events(include_obfuscation=False))
