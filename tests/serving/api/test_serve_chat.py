from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest

from support.tiny_server import NAME, running, save_artefact

MESSAGES: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "The fox?"}]


def test_a_chat_is_the_completion_of_its_template(client: openai.OpenAI):
    chat = client.chat.completions.create(model=NAME, messages=MESSAGES, max_tokens=25, temperature=0)
    prompt = "<|system|>Be brief.<|user|>The fox?<|assistant|>"
    plain = client.completions.create(model=NAME, prompt=prompt, max_tokens=25, temperature=0)
    assert chat.choices[0].message.content == plain.choices[0].text
    assert chat.choices[0].message.role == "assistant"
    assert chat.usage == plain.usage


def test_parts_and_developer_messages_are_understood(client: openai.OpenAI):
    parts: Any = [
        {
            "role": "developer",
            "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}],
        },
        {"role": "user", "content": "The fox?", "tool_calls": None},
    ]
    options = {"model": NAME, "max_completion_tokens": 10, "temperature": 0}
    first = client.chat.completions.create(messages=parts, **options)
    assert first.choices == client.chat.completions.create(messages=MESSAGES, **options).choices


@pytest.mark.parametrize(
    "options",
    [
        {"n": 3},
        {"logprobs": True, "top_logprobs": 4, "logit_bias": {str(special): -100 for special in range(5)}},
        {"stop": "e"},
    ],
)
def test_a_stream_adds_up_to_the_whole(client: openai.OpenAI, options: dict[str, Any]):
    options = {"model": NAME, "messages": MESSAGES, "max_tokens": 30, "seed": 1} | options
    whole = client.chat.completions.create(**options)
    parts = list(
        client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True})
    )
    assert parts[-1].usage == whole.usage
    for choice in whole.choices:
        mine = [part.choices[0] for part in parts[:-1] if part.choices[0].index == choice.index]
        assert mine[0].delta.role == "assistant"
        assert "".join(part.delta.content or "" for part in mine) == choice.message.content
        assert mine[-1].finish_reason == choice.finish_reason
        if choice.logprobs:
            scores = [score for part in mine if part.logprobs for score in part.logprobs.content]
            assert scores == choice.logprobs.content
            assert all(len(score.top_logprobs) == 4 for score in scores)
            shown = b"".join(bytes(score.bytes) for score in scores).decode(errors="replace")
            assert shown == choice.message.content


def test_an_answer_without_a_limit_ends_with_the_context(client: openai.OpenAI):
    answer = client.chat.completions.create(
        model=NAME, messages=MESSAGES, seed=1, extra_body={"ignore_eos": True}
    )
    assert answer.usage.total_tokens == 512
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([*MESSAGES, MESSAGES[0]], "must come first"),
        ([], "at least 1"),
        ([{"role": "robot", "content": "x"}], "role"),
        ([{"role": "user"}], "content"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}],
            "messages",
        ),
        ([{"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}], "tool_calls"),
        ([{"role": "user", "content": "word " * 3000}], "more than"),
    ],
)
def test_bad_messages_are_refused(client: openai.OpenAI, messages: Any, words: str):
    with pytest.raises(openai.BadRequestError, match=words) as refusal:
        client.chat.completions.create(model=NAME, messages=messages)
    assert refusal.value.param == "messages"


def test_without_a_template_chats_are_refused(tmp_path: Path):
    with running(save_artefact(tmp_path, chat=False)) as server:
        response = server.post("chat/completions", messages=MESSAGES)
        assert response.status_code == 400
        assert "chat template" in response.json()["error"]["message"]
