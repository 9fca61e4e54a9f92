"""S6, S7: every form of message that OpenAI's clients send, and what is said of those that are not read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from support.tiny_server import Running, running
from support.tool_models import QWEN, save_calling

ASK: Any = {"role": "user", "content": "The fox?"}
CALL: Any = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
CALLS: Any = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT: Any = {"role": "tool", "tool_call_id": "call_1", "content": "two"}
READS_THOUGHTS = QWEN.replace(
    "{{ m.content }}{% if m.tool_calls %}",
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{ m.content }}{% if m.tool_calls %}",
)


def parts(*contents: Any) -> Any:
    return {"role": "user", "content": list(contents)}


def called(**function: Any) -> Any:
    return CALLS | {"tool_calls": [CALL | {"function": function}]}


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory):
    with running(save_calling(tmp_path_factory.mktemp("qwen"), QWEN), max_length=2048) as server:
        yield server


def prompt(server: Running, *messages: Any) -> str:
    """What the model is given of these messages."""
    response = server.post("chat/completions", messages=messages, max_tokens=1, temperature=0)
    assert response.status_code == 200, response.text
    import asyncio

    from lathe.serving.api.chat import chat_tokens
    from lathe.serving.api.messages import Message

    parsed = [Message.model_validate(message) for message in messages]
    tokens = asyncio.run(chat_tokens(server.service, parsed))
    assert len(tokens) == response.json()["usage"]["prompt_tokens"]
    return server.service.tokenizer.decode(tokens, special=True)


def complaint(server: Running, *messages: Any) -> str:
    """The one sentence with which these messages are refused."""
    response = server.post("chat/completions", messages=messages, max_tokens=1)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == "messages"
    assert "\n" not in error["message"]
    assert not re.search(r"\.(str|int|list\[|dict\[|function-)", error["message"]), error["message"]
    return error["message"]


@pytest.mark.parametrize(
    ("message", "plain"),
    [
        ({"role": "assistant", "content": None}, ""),
        ({"role": "assistant"}, ""),
        ({"role": "assistant", "content": []}, ""),
        ({"role": "assistant", "content": "", "tool_calls": []}, ""),
        ({"role": "assistant", "content": "Yes.", "refusal": None, "annotations": [], "audio": None}, "Yes."),
        ({"role": "assistant", "content": "Yes.", "function_call": None, "tool_calls": None}, "Yes."),
        ({"role": "assistant", "content": "Yes.", "annotations": [{"type": "url_citation"}]}, "Yes."),
        ({"role": "assistant", "content": None, "refusal": "No."}, "No."),
        ({"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}, "No."),
        ({"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."}, "Yes."),
        ({"role": "assistant", "content": "Yes.", "reasoning": "Hm.", "reasoning_details": [{}]}, "Yes."),
        (
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "Ye", "cache_control": {"type": "ephemeral"}},
                    {"type": "text", "text": "s.", "annotations": []},
                ],
            },
            "Yes.",
        ),
    ],
)
def test_s6_s7_forms_of_a_message_that_mean_the_same(qwen: Running, message: Any, plain: str):
    expected = prompt(qwen, ASK, {"role": "assistant", "content": plain}, ASK)
    assert prompt(qwen, ASK, message, ASK) == expected


def test_s7_cache_control_of_a_message_is_harmless(qwen: Running):
    assert prompt(qwen, ASK | {"cache_control": {"type": "ephemeral"}}) == prompt(qwen, ASK)
    assert prompt(qwen, {"role": "developer", "content": "Be brief."}, ASK).startswith("<|system|>Be brief.")


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_s7_old_thoughts_are_given_to_a_template_that_reads_them(tmp_path: Path, field: str):
    old = {"role": "assistant", "content": "Yes.", field: "Hm."}
    with running(save_calling(tmp_path, READS_THOUGHTS), max_length=2048) as server:
        assert "<think>Hm.</think>Yes." in prompt(server, ASK, old, ASK)
        assert "Hm." not in prompt(server, ASK | {field: "Hm."}, ASK)


@pytest.mark.parametrize(
    "calls",
    [
        CALLS,
        {name: value for name, value in CALLS.items() if name != "content"},
        CALLS | {"content": ""},
        CALLS | {"tool_calls": [CALL | {"index": 0}]},
        CALLS | {"tool_calls": [CALL | {"function": {"name": "f", "arguments": {"a": 1}}}]},
        CALLS | {"tool_calls": [CALL | {"function": {"name": "f", "arguments": '{"a":1}'}}]},
        CALLS | {"tool_calls": [{"id": "call_1", "function": CALL["function"]}], "refusal": None},
    ],
)
def test_s6_a_history_with_calls_and_results(qwen: Running, calls: Any):
    text = prompt(qwen, ASK, calls, RESULT)
    assert '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>' in text
    assert "<tool_response>\ntwo\n</tool_response>" in text
    assert "None" not in text


def test_s6_arguments_that_are_no_text_are_none(qwen: Running):
    for arguments in ("", "{}", " {} "):
        call = CALL | {"function": {"name": "f", "arguments": arguments}}
        assert '"arguments": {}}' in prompt(qwen, ASK, CALLS | {"tool_calls": [call]}, RESULT)


def test_s6_results_are_shown_in_the_order_of_their_calls(qwen: Running):
    """Qwen's template shows no ids: the place alone tells whose result it is."""
    second = CALL | {"id": "call_2", "function": {"name": "g", "arguments": "{}"}}
    calls = CALLS | {"tool_calls": [CALL, second]}
    results = [RESULT | {"tool_call_id": "call_2", "content": "later"}, RESULT]
    text = prompt(qwen, ASK, calls, *results, {"role": "assistant", "content": "So."}, ASK)
    assert text.index('"f"') < text.index('"g"') < text.index("two") < text.index("later") < text.index("So.")
    assert prompt(qwen, ASK, calls, *reversed(results), {"role": "assistant", "content": "So."}, ASK) == text
    assert complaint(qwen, ASK, calls, results[0]) == "messages.1.tool_calls: there is no result of 'call_1'"
    assert prompt(qwen, ASK, CALLS, RESULT, CALLS, RESULT).count("two") == 2
    assert "two" not in prompt(qwen, ASK, calls, ASK)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}],
            },
            r"^messages\.0\.content\.1\.type: this model reads text only, got image_url$",
        ),
        (
            {
                "role": "user",
                "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}],
            },
            r"^messages\.0\.content\.0\.type: this model reads text only, got input_audio$",
        ),
        (
            {"role": "user", "content": [{"type": "file", "file": {"file_id": "x"}}]},
            r"^messages\.0\.content\.0\.type: this model reads text only, got file$",
        ),
        (
            {"role": "user", "content": [{"type": "video_url", "video_url": {}}]},
            "reads text only, got video_url",
        ),
        ({"role": "user", "content": [{"type": "poem", "text": "x"}]}, r"content\.0\.type: .*got poem"),
        ({"role": "user", "content": [{"type": "text"}]}, r"content\.0\.text: this field is missing"),
        ({"role": "user", "content": [{"type": "text", "text": 5}]}, r"^messages\.0\.content\.0\.text: "),
        ({"role": "user", "content": [{"type": "text", "text": "x", "colour": 1}]}, r"content\.0\.colour"),
        ({"role": "user", "content": ["x"]}, r"^messages\.0\.content\.0: "),
        ({"role": "user", "content": 5}, r"^messages\.0\.content: Input should be a valid string or list$"),
        ({"role": "user", "content": {"text": "x"}}, r"^messages\.0\.content: Input .* string or list$"),
        ({"role": "user", "content": None}, r"^messages\.0: content is missing"),
        ({"role": "user", "content": []}, r"^messages\.0: content is missing"),
        ({"role": "user", "content": "x", "colour": "red"}, r"^messages\.0\.colour: "),
        (
            ASK | {"tool_calls": [CALL]},
            "tool_calls belong to messages of the assistant",
        ),
        (
            ASK | {"tool_call_id": "a"},
            "tool_call_id belongs to messages of role tool",
        ),
        ({"role": "function", "name": "f", "content": "x"}, "role: function is the old form.*tool_call_id"),
        ({"role": "robot", "content": "x"}, r"^messages\.0\.role: "),
        ({"content": "x"}, r"^messages\.0\.role: this field is missing"),
        ("x", r"^messages\.0: "),
        ({"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}, "old form of tool_calls"),
        ({"role": "assistant", "audio": {"id": "x"}}, "no audio"),
        ({"role": "tool", "content": "x"}, "tool_call_id belongs"),
        ({"role": "tool", "tool_call_id": "a"}, "content is missing"),
        (RESULT, r"^messages\.0\.tool_call_id: no earlier tool call has the id 'call_1'$"),
        (CALLS | {"tool_calls": [{"type": "function"}]}, r"tool_calls\.0\.id: this field is missing"),
        (CALLS | {"tool_calls": [CALL | {"type": "custom"}]}, r"only calls of type function.*custom"),
        (
            CALLS | {"tool_calls": [CALL | {"function": {"arguments": "{}"}}]},
            r"function\.name: this field is missing",
        ),
        (
            called(name="f", arguments="{a"),
            r"^messages\.0\.tool_calls\.0\.function\.arguments: .* not valid JSON",
        ),
        (
            called(name="f", arguments="[1]"),
            r"function\.arguments: .* have to be a JSON object",
        ),
        (
            called(name="f", arguments='{"a": NaN}'),
            r"function\.arguments: .* not valid JSON",
        ),
        (
            CALLS | {"tool_calls": [CALL | {"function": {"name": "f", "arguments": 5}}]},
            r"function\.arguments: ",
        ),
        (CALLS | {"tool_calls": {"a": 1}}, r"^messages\.0\.tool_calls: Input should be a valid list"),
    ],
)
def test_s7_what_is_not_read_is_named_with_its_place(qwen: Running, message: Any, words: str):
    assert re.search(words, complaint(qwen, message)), complaint(qwen, message)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([1.5], r"^prompt\.0: Input should be a valid integer"),
        (["a", 5], r"^prompt\.1: Input should be a valid string"),
        ([[1], "a"], r"^prompt\.1: Input should be a valid list"),
        ([[1, "x"]], r"^prompt\.0\.1: Input should be a valid integer"),
        (5, r"^prompt: Input should be a valid string or list$"),
        ({"a": 1}, r"^prompt: Input should be a valid string or list$"),
        ([-1], r"^prompt\.0: .*greater than or equal to 0"),
    ],
)
def test_s7_of_several_kinds_of_prompt_the_nearest_is_told(server: Running, value: Any, words: str):
    response = server.post("completions", prompt=value)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "prompt"
    assert re.search(words, error["message"]), error["message"]
