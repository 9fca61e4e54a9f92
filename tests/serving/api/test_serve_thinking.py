"""Chats with models that think: what they think is told apart, streamed and whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from support.thinking_model import CLOSED, HARMONY, HARMONY_MARKS, OPENED, QWEN, save_thinking, say, saying
from support.tiny_server import NAME, Running

ASK: Any = {"model": NAME, "messages": [{"role": "user", "content": "The fox?"}], "temperature": 0}
CHOICE = {"type": "json_schema", "json_schema": {"name": "choice", "schema": {"enum": ["left", "right"]}}}
FINAL = "<|start|>assistant<|channel|>final<|message|>"


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with saying(
        save_thinking(tmp_path_factory.mktemp("qwen"), QWEN), "<think>\nHm é.\n</think>\n\nYes."
    ) as server:
        yield server


def client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0)


def answered(server: Running, **change: Any) -> tuple[str | None, str | None, int]:
    """(thinking, answer, tokens of thinking), the same streamed as whole."""
    with client(server) as api:
        whole = api.chat.completions.create(**(ASK | change))
        parts = list(
            api.chat.completions.create(**(ASK | change), stream=True, stream_options={"include_usage": True})
        )
    message: Any = whole.choices[0].message
    deltas: list[Any] = [part.choices[0].delta for part in parts if part.choices]
    thought = [getattr(delta, "reasoning_content", None) or "" for delta in deltas]
    assert "".join(thought) == (getattr(message, "reasoning_content", None) or "")
    assert [getattr(delta, "reasoning", None) or "" for delta in deltas] == thought
    assert "".join(delta.content or "" for delta in deltas) == (message.content or "")
    assert not any(delta.content and getattr(delta, "reasoning", None) for delta in deltas)
    assert parts[-1].usage == whole.usage
    assert parts[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert getattr(message, "reasoning", None) == getattr(message, "reasoning_content", None)
    return getattr(message, "reasoning_content", None), message.content, _thought(whole.usage)


def _thought(usage: Any) -> int:
    return int(usage.completion_tokens_details.reasoning_tokens)


def test_thinking_is_split_off_where_the_model_opens_it(thinker: Running):
    thought, answer, tokens = answered(thinker)
    assert (thought, answer) == ("Hm é.", "Yes.")
    encode = thinker.service.tokenizer.encode
    assert tokens == len(encode("<think>\nHm é.\n</think>\n\n", special=False))


def test_an_answer_without_thinking_is_all_content(thinker: Running):
    say(thinker, "Yes. <think>")
    assert answered(thinker) == (None, "Yes. <think>", 0)
    say(thinker, "<think>\nHm é.\n</think>\n\nYes.")


def test_an_answer_cut_while_thinking_has_no_content(thinker: Running):
    thought, answer, tokens = answered(thinker, max_tokens=4)
    assert thought
    assert answer is None
    assert tokens == 4


def test_log_probabilities_are_those_of_the_content(thinker: Running):
    with client(thinker) as api:
        choice = api.chat.completions.create(**ASK, logprobs=True).choices[0]
    assert choice.logprobs is not None
    spoken = [score.token for score in choice.logprobs.content or []]
    assert "".join(spoken) == "Yes.</s>"


def test_several_answers_are_split_one_by_one(thinker: Running):
    with client(thinker) as api:
        answer: Any = api.chat.completions.create(**ASK, n=3)
    assert [choice.message.reasoning_content for choice in answer.choices] == ["Hm é."] * 3
    assert [choice.message.content for choice in answer.choices] == ["Yes."] * 3


def test_completions_are_not_split(thinker: Running):
    assert thinker.complete(max_tokens=30)["choices"][0]["text"] == "<think>\nHm é.\n</think>\n\nYes."


@pytest.mark.parametrize(
    ("template", "said", "thought", "answer"),
    [
        (OPENED, "Hm.</think>Yes.", "Hm.", "Yes."),
        (CLOSED, "Yes. </think>", None, "Yes. </think>"),
    ],
)
def test_prompts_may_have_opened_or_closed_the_thinking(
    tmp_path: Path, template: str, said: str, thought: str | None, answer: str
):
    with saying(save_thinking(tmp_path, template), said) as server:
        assert answered(server)[:2] == (thought, answer)


def test_channels_of_harmony_are_read_although_their_marks_are_special(tmp_path: Path):
    artefact = save_thinking(tmp_path, HARMONY, HARMONY_MARKS)
    with saying(artefact, f"<|channel|>analysis<|message|>Hm.<|end|>{FINAL}Yes.") as server:
        assert answered(server)[:2] == ("Hm.", "Yes.")
        constrained = answered(server, response_format=CHOICE)
        assert constrained[0] == "Hm."
        assert json.loads(constrained[1] or "") in ("left", "right")


@pytest.mark.parametrize(
    ("template", "said"),
    [(QWEN, "<think>Hm.</think>right"), (OPENED, "Hm.</think>right"), (CLOSED, "right"), (QWEN, "right")],
)
def test_a_schema_holds_the_answer_and_not_the_thinking(tmp_path: Path, template: str, said: str):
    with saying(save_thinking(tmp_path, template), said) as server:
        thought, answer, _ = answered(server, response_format=CHOICE)
        assert thought == ("Hm." if "Hm." in said else None)
        assert json.loads(answer or "") in ("left", "right")


def test_under_a_schema_the_thinking_cannot_end_the_answer(tmp_path: Path):
    with saying(save_thinking(tmp_path, OPENED), "Hm.") as server:
        server.runner.script = [
            *server.runner.script,
            *server.service.tokenizer.encode("</think>", special=False),
        ]
        thought, answer, _ = answered(server, response_format=CHOICE)
        assert (thought or "").startswith("Hm.")
        assert json.loads(answer or "") in ("left", "right")


def test_a_continued_answer_is_split_where_it_goes_on(tmp_path: Path):
    plain = QWEN.replace("m['content'].split('</think>')[-1]", "m['content']") + "{# </think> #}"
    with saying(save_thinking(tmp_path, plain), " yes.</think>Yes.") as server:
        going_on = {"continue_final_message": True, "add_generation_prompt": False}
        for said, found in (("<think>Hm,", ("yes.", "Yes.")), ("Well,", (None, " yes.</think>Yes."))):
            messages = [*ASK["messages"], {"role": "assistant", "content": said}]
            assert answered(server, messages=messages, extra_body=going_on)[:2] == found


@pytest.mark.parametrize(
    "switch", [{"reasoning_effort": "none"}, {"chat_template_kwargs": {"enable_thinking": False}}]
)
def test_thinking_that_is_switched_off_is_over_in_the_prompt(thinker: Running, switch: Any):
    say(thinker, "Yes. </think>")
    assert answered(thinker, extra_body=switch) == (None, "Yes. </think>", 0)
    say(thinker, "<think>\nHm é.\n</think>\n\nYes.")
