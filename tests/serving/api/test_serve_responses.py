"""The Responses API, as OpenAI's client calls it: whole, streamed, parsed, and without a store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import openai
import pydantic
import pytest

from support.thinking_model import QWEN, save_thinking, saying
from support.tiny_server import NAME, Running, running

FOX = "The fox?"
MESSAGES: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": FOX}]
GREEDY: Any = {"model": NAME, "temperature": 0}
LOGPROBS: Any = ["message.output_text.logprobs"]


class Choice(pydantic.BaseModel):
    side: Literal["left", "right"]


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with saying(
        save_thinking(tmp_path_factory.mktemp("qwen"), QWEN), "<think>\nHm.\n</think>\n\nYes."
    ) as server:
        yield server


def of(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0)


def chat_text(client: openai.OpenAI, messages: Any) -> str | None:
    answer = client.chat.completions.create(**GREEDY, messages=messages, max_completion_tokens=20)
    return answer.choices[0].message.content


@pytest.mark.parametrize(
    ("given", "instructions", "messages"),
    [
        (FOX, None, MESSAGES[1:]),
        (FOX, "Be brief.", MESSAGES),
        (MESSAGES, None, MESSAGES),
        ([{"role": "developer", "content": "Be brief."}, MESSAGES[1]], None, MESSAGES),
        (
            [
                {
                    "type": "message",
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "The "},
                        {"type": "input_text", "text": "fox?"},
                    ],
                }
            ],
            "Be brief.",
            MESSAGES,
        ),
        (
            [{"role": "system", "content": "Be nice."}, MESSAGES[1]],
            "Be brief.",
            [{"role": "system", "content": "Be brief.\n\nBe nice."}, MESSAGES[1]],
        ),
        (
            [
                MESSAGES[1],
                {"type": "reasoning", "id": "rs_1", "summary": []},
                {
                    "type": "message",
                    "id": "msg_1",
                    "role": "assistant",
                    "status": "completed",
                    "content": [{"type": "output_text", "text": "No.", "annotations": [], "logprobs": []}],
                },
                {"role": "user", "content": "Why?"},
            ],
            None,
            [MESSAGES[1], {"role": "assistant", "content": "No."}, {"role": "user", "content": "Why?"}],
        ),
        (
            [
                MESSAGES[1],
                {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
                MESSAGES[1],
            ],
            None,
            [MESSAGES[1], {"role": "assistant", "content": "No."}, MESSAGES[1]],
        ),
    ],
)
def test_a_response_is_the_chat_of_its_items(
    client: openai.OpenAI, given: Any, instructions: Any, messages: Any
):
    response = client.responses.create(**GREEDY, input=given, instructions=instructions, max_output_tokens=20)
    assert response.output_text == chat_text(client, messages)


def test_the_document_is_as_described(server: Running, client: openai.OpenAI):
    asked: Any = {"metadata": {"a": "b"}, "user": "me", "service_tier": "auto", "max_output_tokens": 5}
    response = client.responses.create(
        **GREEDY, **asked, input=FOX, instructions="Be brief.", extra_body={"ignore_eos": True}
    )
    assert response.id.startswith("resp_")
    assert response.object == "response"
    assert response.status == "incomplete"
    assert response.incomplete_details
    assert response.incomplete_details.reason == "max_output_tokens"
    assert (response.metadata, response.user, response.service_tier) == ({"a": "b"}, "me", "default")
    assert response.instructions == "Be brief."
    assert (response.model, response.temperature, response.top_p) == (NAME, 0, 1)
    assert (response.tools, response.tool_choice, response.parallel_tool_calls) == ([], "auto", True)
    assert response.to_dict()["store"] is False
    [message] = response.output
    assert message.type == "message"
    assert message.id.startswith("msg_")
    assert message.status == "incomplete"
    usage = response.usage
    assert usage is not None
    prompt = server.service.tokenizer.encode("<|system|>Be brief.<|user|>The fox?<|assistant|>")
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (len(prompt), 5, len(prompt) + 5)
    assert usage.output_tokens_details.reasoning_tokens == 0


ORDER = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]


def shape(events: list[Any]) -> list[str]:
    """The kinds of events, repeats of one left out."""
    kinds = [event.type for event in events]
    return [kind for kind, before in zip(kinds, [None, *kinds], strict=False) if kind != before]


@pytest.mark.parametrize("limit", [None, 7])
def test_a_stream_has_the_documented_events_in_order(client: openai.OpenAI, limit: int | None):
    asked: Any = {"model": NAME, "input": FOX, "max_output_tokens": limit, "extra_body": {"seed": 5}}
    whole = client.responses.create(**asked)
    events: list[Any] = list(client.responses.create(**asked, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert shape(events) == [*ORDER[:-1], f"response.{whole.status}"]
    assert events[0].response.status == events[1].response.status == "in_progress"
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    final = events[-1].response
    assert "".join(deltas) == final.output_text == whole.output_text
    assert (final.usage, final.status) == (whole.usage, whole.status)
    done = events[-2].item
    assert done == final.output[0]
    assert events[2].item.content == []
    assert {event.item_id for event in events if hasattr(event, "item_id")} == {done.id}
    assert {event.response.id for event in events if hasattr(event, "response")} == {final.id}


def test_the_lines_of_a_stream_name_their_events(server: Running):
    body = {"model": NAME, "input": FOX, "max_output_tokens": 3, "stream": True}
    with httpx.stream("POST", f"{server.url}/v1/responses", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = [event.split("\n") for event in "".join(response.iter_text()).strip().split("\n\n")]
    for name, data in events:
        assert json.loads(data.removeprefix("data: "))["type"] == name.removeprefix("event: ")


def test_the_clients_own_stream_and_parser_work(client: openai.OpenAI):
    with client.responses.stream(**GREEDY, input=FOX, text_format=Choice) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[-1] == "response.completed"
    parsed = client.responses.parse(**GREEDY, input=FOX, text_format=Choice)
    assert final.output_parsed == parsed.output_parsed
    assert parsed.output_parsed
    assert parsed.output_parsed.side in ("left", "right")
    again: Any = [*[item.model_dump() for item in parsed.output], {"role": "user", "content": "Why?"}]
    assert client.responses.create(**GREEDY, input=again, max_output_tokens=2).usage


def test_any_object_will_do_for_json_object(client: openai.OpenAI):
    text: Any = {"format": {"type": "json_object"}}
    response = client.responses.create(**GREEDY, input=FOX, text=text, max_output_tokens=20)
    assert response.output_text.lstrip().startswith("{")
    assert response.text
    assert response.text.format
    assert response.text.format.type == "json_object"


def test_log_probabilities_come_where_they_are_asked_for(client: openai.OpenAI):
    asked: Any = {"input": FOX, "max_output_tokens": 6, "include": LOGPROBS, "top_logprobs": 3}
    asked["extra_body"] = {"logit_bias": {str(special): -100 for special in range(5)}}
    [message] = client.responses.create(**GREEDY, **asked).output
    assert message.type == "message"
    [part] = message.content
    assert part.type == "output_text"
    scores = part.logprobs or []
    assert [len(score.top_logprobs) for score in scores] == [3] * len(scores)
    assert b"".join(bytes(score.bytes) for score in scores).decode(errors="replace") == part.text
    events = list(client.responses.create(**GREEDY, **asked, stream=True))
    without = client.responses.create(**GREEDY, **asked | {"include": []})
    assert without.output[0].to_dict()["content"] == message.to_dict()["content"]
    streamed = [score.token for e in events if e.type == "response.output_text.delta" for score in e.logprobs]
    assert streamed == [score.token for score in scores]


def test_thinking_is_an_item_of_its_own(thinker: Running):
    with of(thinker) as client:
        response = client.responses.create(**GREEDY, input=FOX)
        events: list[Any] = list(client.responses.create(**GREEDY, input=FOX, stream=True))
        cut = client.responses.create(**GREEDY, input=FOX, max_output_tokens=5)
    thought, said = response.output
    assert thought.type == "reasoning"
    assert thought.content
    assert thought.content[0].text == "Hm."
    assert thought.id.startswith("rs_")
    assert (said.type, response.output_text) == ("message", "Yes.")
    assert response.usage
    assert response.usage.output_tokens_details.reasoning_tokens > 4
    reasoning = [kind.replace("output_text", "reasoning_text") for kind in ORDER[2:-1]]
    assert shape(events) == [*ORDER[:2], *reasoning, *ORDER[2:]]
    assert [item.type for item in events[-1].response.output] == ["reasoning", "message"]
    assert [item.type for item in cut.output] == ["reasoning"]
    assert (cut.status, cut.output_text) == ("incomplete", "")


def test_effort_none_switches_thinking_off(thinker: Running, client: openai.OpenAI):
    with of(thinker) as api:
        response = api.responses.create(**GREEDY, input=FOX, reasoning={"effort": "none"})
    assert {item.type for item in response.output} == {"message"}
    assert response.reasoning
    assert response.reasoning.effort == "none"
    with pytest.raises(openai.BadRequestError, match="enable_thinking") as refusal:
        client.responses.create(**GREEDY, input=FOX, reasoning={"effort": "none"})
    assert refusal.value.param == "reasoning"


def test_a_schema_holds_the_answer_and_not_the_thinking(thinker: Running):
    with of(thinker) as client:
        parsed = client.responses.parse(**GREEDY, input=FOX, text_format=Choice)
    assert [item.type for item in parsed.output] == ["reasoning", "message"]
    assert parsed.output_parsed
    assert parsed.output_parsed.side in ("left", "right")


def test_an_empty_answer_is_an_empty_message(client: openai.OpenAI):
    bias = {"logit_bias": {"1": 100}}
    response = client.responses.create(**GREEDY, input=FOX, extra_body=bias)
    assert (response.status, response.output_text, len(response.output)) == ("completed", "", 1)


def test_a_failure_in_a_stream_is_told_by_its_events(artefact_dir: Path):
    with running(artefact_dir) as server, of(server) as client:
        server.runner.fail_next = True
        events: list[Any] = list(client.responses.create(**GREEDY, input=FOX, stream=True))
        assert [event.type for event in events[-2:]] == ["error", "response.failed"]
        assert events[-1].response.status == "failed"
        assert events[-1].response.error.code == "server_error"
        assert [event.sequence_number for event in events] == list(range(len(events)))
        server.runner.fail_next = True
        with pytest.raises(openai.InternalServerError):
            client.responses.create(**GREEDY, input=FOX)
        assert server.counter("lathe_requests_total", endpoint="responses", outcome="error") == 2
        client.responses.create(**GREEDY, input=FOX)
        assert server.counter("lathe_requests_total", endpoint="responses", outcome="ok") == 1


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "stores no responses"),
        ({"conversation": "conv_1"}, "conversation", "stores no responses"),
        ({"conversation": {"id": "conv_1"}}, "conversation", "stores no responses"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "stores no prompts"),
        ({"store": True}, "store", "stores no answers"),
        ({"background": True}, "background", "not supported"),
        ({"truncation": "auto"}, "truncation", "not supported"),
        ({"include": ["reasoning.encrypted_content"]}, "include", "logprobs"),
        ({"include": ["web_search_call.results"]}, "include", "logprobs"),
        ({"tools": [{"type": "web_search"}]}, "tools", "functions"),
        ({"tools": [{"type": "mcp", "server_label": "x"}]}, "tools", "functions"),
        ({"reasoning": {"summary": "auto"}}, "reasoning", "summary"),
        ({"reasoning": {"mode": "pro"}}, "reasoning", "mode"),
        ({"text": {"verbosity": "low"}}, "text", "verbosity"),
        ({"text": {"format": {"type": "grammar"}}}, "text", "format"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text", "schema"),
        ({"text": {"format": {"type": "text", "name": "x"}}}, "text", "json_schema"),
        ({"text": {"format": {"type": "json_schema", "name": "a b", "schema": {}}}}, "text", "name"),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": 5}}}}, "text", "text"),
        ({"response_format": {"type": "json_object"}}, "response_format", "text.format"),
        ({"max_tokens": 5}, "max_tokens", "max_output_tokens"),
        ({"messages": MESSAGES}, "messages", "input"),
        ({"n": 2}, "n", "one answer"),
        ({"max_output_tokens": 0}, "max_output_tokens", "greater"),
        ({"service_tier": "priority"}, "service_tier", "default"),
        ({"metadata": {"a": 1}}, "metadata", "string"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata", "16"),
        ({"user": 5}, "user", "string"),
        ({"parallel_tool_calls": "yes"}, "parallel_tool_calls", "bool"),
        ({"top_logprobs": 21}, "top_logprobs", "20"),
        ({"stream": True, "stream_options": {"continuous_usage_stats": True}}, "stream_options", "end"),
        ({"instructions": ["x"]}, "instructions", "string"),
        ({"temprature": 0}, "temprature", "temperature"),
        ({"input": None}, "input", "input"),
        ({"input": []}, "input", "at least 1"),
        ({"input": [{"type": "reasoning", "id": "x", "summary": []}]}, "input", "nothing but"),
        ({"text": 5}, "text", "valid object"),
        ({"chat_template_kwargs": {"x": 1}}, "chat_template_kwargs", "reads no 'x'"),
        ({"input": 5}, "input", "input"),
        ({"input": "word " * 3000}, "input", "more than"),
        ({"input": ["x"]}, "input", "input.0"),
        ({"input": [MESSAGES[1], {"role": "robot", "content": "x"}]}, "input", "input.1.role"),
        ({"input": [{"role": "user"}]}, "input", "input.0.content"),
        ({"input": [{"role": "user", "content": None}]}, "input", "input.0.content"),
        ({"input": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}, "input", "input_text"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input", "input_image"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input", "content.0.text"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input", "item_reference"),
        ({"input": [{"type": "computer_call_output", "output": {}}]}, "input", "computer_call_output"),
        (
            {"input": [{"type": "reasoning", "id": "x", "summary": [], "encrypted_content": "x"}]},
            "input",
            "encrypted_content",
        ),
        ({"input": [MESSAGES[1], MESSAGES[0]]}, "input", "must come first"),
    ],
)
def test_what_a_stateless_server_cannot_do_is_named(server: Running, change: Any, param: str, words: str):
    response = server.post("responses", **({"input": FOX, "max_output_tokens": 2} | change))
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert words in error["message"]


@pytest.mark.parametrize(
    "neutral",
    [
        {"store": False},
        {"background": False},
        {"truncation": "disabled"},
        {"tools": []},
        {"tool_choice": "auto"},
        {"tool_choice": "none"},
        {"include": []},
        {"parallel_tool_calls": False},
        {"service_tier": "default"},
        {"reasoning": {}},
        {"reasoning": {"effort": None}},
        {"text": {}},
        {"text": {"format": {"type": "text"}, "verbosity": "medium"}},
        {"metadata": {}},
        {"max_tool_calls": 3},
        {"safety_identifier": "x", "prompt_cache_key": "y", "prompt_cache_retention": "24h"},
        {"previous_response_id": None, "conversation": None},
        {"stream_options": None},
    ],
)
def test_what_changes_nothing_is_taken(server: Running, neutral: Any):
    asked = {"input": FOX, "max_output_tokens": 5, "temperature": 0}
    plain, answer = server.post("responses", **asked).json(), server.post("responses", **asked, **neutral)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"] == plain["usage"]
    assert answer.json()["output"][0]["content"] == plain["output"][0]["content"]


def test_a_prompt_that_is_too_long_is_the_input(server: Running):
    for given in ("The quick " * 300, "The quick " * 30_000):
        refused = server.post("responses", input=given).json()["error"]
        assert (refused["param"], refused["code"]) == ("input", "context_length_exceeded")
        assert "messages" not in refused["message"]


def test_nothing_is_stored(client: openai.OpenAI):
    response = client.responses.create(**GREEDY, input=FOX, max_output_tokens=1)
    for ask in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
        with pytest.raises(openai.NotFoundError, match="stores none"):
            ask(response.id)
    with pytest.raises(openai.NotFoundError, match="stores none"):
        client.responses.input_items.list(response.id)


@pytest.mark.parametrize("path", ["input_tokens", "compact", "resp_x/continue"])
def test_what_openai_computes_besides_is_no_route_here(server: Running, path: str):
    answer = httpx.post(f"{server.url}/v1/responses/{path}", json={"model": NAME, "input": "x"})
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == f"there is no /v1/responses/{path} here"
