"""Function tools in the Responses API: calls as items, streamed, held to their schemas, and read back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pydantic
import pytest

from support.thinking_model import say
from support.tiny_server import NAME, Running, running, save_artefact
from support.tool_models import QWEN, save_calling

WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"enum": ["Paris", "Rome"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
        },
        "required": ["city", "days"],
        "additionalProperties": False,
    },
    "strict": True,
}
PING: Any = {
    "type": "function",
    "name": "ping",
    "parameters": {"type": "object", "properties": {}},
    "strict": None,
}
ARGUMENTS = '{"city": "Rome", "days": 3}'
CALL = f'<tool_call>\n{{"name": "get_weather", "arguments": {ARGUMENTS}}}\n</tool_call>'
PONG = '<tool_call>\n{"name": "ping", "arguments": {}}\n</tool_call>'
THINKING = QWEN.replace(
    "{% if add_generation_prompt %}",
    "{# </think> #}{% if add_generation_prompt %}",
)
ASK: Any = {"model": NAME, "temperature": 0, "input": "How is Rome?", "tools": [WEATHER, PING]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(save_calling(tmp_path_factory.mktemp("qwen"), QWEN), max_length=2048) as server:
        yield server


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client:
        yield client


def test_a_call_is_an_item_of_its_own(server: Running, client: openai.OpenAI):
    say(server, f"Let me see.\n{CALL}")
    response = client.responses.create(**ASK)
    said, call = response.output
    assert (said.type, response.output_text) == ("message", "Let me see.")
    assert call.type == "function_call"
    assert (call.name, json.loads(call.arguments), call.status) == (
        "get_weather",
        json.loads(ARGUMENTS),
        "completed",
    )
    assert call.id
    assert call.id.startswith("fc_")
    assert call.call_id
    assert call.call_id != call.id
    assert response.status == "completed"
    assert [tool.to_dict() for tool in response.tools] == [
        WEATHER,
        PING | {"description": None, "strict": False},
    ]


def test_a_stream_tells_of_calls_by_the_documented_events(server: Running, client: openai.OpenAI):
    say(server, f"Well.\n{CALL}\n{PONG}")
    events: list[Any] = list(client.responses.create(**ASK, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    final = events[-1].response
    assert [item.type for item in final.output] == ["message", "function_call", "function_call"]
    for place, item in enumerate(final.output):
        mine = [event for event in events if getattr(event, "output_index", None) == place]
        assert (mine[0].type, mine[-1].type) == ("response.output_item.added", "response.output_item.done")
        assert mine[-1].item == item
        if item.type == "function_call":
            added, *deltas, done, _ = mine
            assert (added.item.arguments, added.item.name, added.item.call_id) == (
                "",
                item.name,
                item.call_id,
            )
            assert {delta.type for delta in deltas} == {"response.function_call_arguments.delta"}
            assert "".join(delta.delta for delta in deltas) == item.arguments == done.arguments
            assert done.type == "response.function_call_arguments.done"
            assert {event.item_id for event in (*deltas, done)} == {item.id}


def test_the_clients_own_stream_and_tool_parser_work(server: Running, client: openai.OpenAI):
    class Weather(pydantic.BaseModel):
        city: str
        days: int

    say(server, CALL.replace("get_weather", "Weather"))
    tool = openai.pydantic_function_tool(Weather)["function"]
    tools: Any = [{"type": "function", "strict": True} | tool]
    asked: Any = ASK | {"tools": tools}
    with client.responses.stream(**asked) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_response()
    assert "response.function_call_arguments.delta" in kinds
    assert final.output[0].type == "function_call"
    assert json.loads(final.output[0].arguments) == json.loads(ARGUMENTS)
    again: Any = [{"role": "user", "content": "x"}, *[item.model_dump() for item in final.output]]
    again.append({"type": "function_call_output", "call_id": final.output[0].call_id, "output": "rain"})
    say(server, "It rains.")
    assert client.responses.create(**asked | {"input": again}).output_text == "It rains."


@pytest.mark.parametrize("output", ["rain", [{"type": "input_text", "text": "rain"}]])
def test_calls_and_their_results_are_read_as_a_chat_has_them(
    server: Running, client: openai.OpenAI, output: Any
):
    say(server, "It rains.")
    items: Any = [
        {"role": "user", "content": "How is Rome?"},
        {"role": "assistant", "content": "Let me see."},
        {"type": "function_call", "call_id": "call_1", "name": "get_weather", "arguments": ARGUMENTS},
        {"type": "function_call", "call_id": "call_2", "name": "ping", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": output},
        {"type": "function_call_output", "call_id": "call_2", "output": ""},
    ]
    response = client.responses.create(**ASK | {"input": items})
    calls = [
        {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": ARGUMENTS}},
        {"id": "call_2", "type": "function", "function": {"name": "ping", "arguments": "{}"}},
    ]
    messages: Any = [
        items[0],
        {"role": "assistant", "content": "Let me see.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
        {"role": "tool", "tool_call_id": "call_2", "content": ""},
    ]
    tools: Any = [
        {"type": "function", "function": {name: tool[name] for name in tool if name != "type"}}
        for tool in (WEATHER, PING)
    ]
    chat = client.chat.completions.create(model=NAME, messages=messages, tools=tools, temperature=0)
    assert response.usage
    assert chat.usage
    assert response.usage.input_tokens == chat.usage.prompt_tokens
    assert response.output_text == chat.choices[0].message.content == "It rains."


NAMED = {"type": "function", "name": "ping"}


@pytest.mark.parametrize(
    ("choice", "calls"),
    [
        ("required", {"get_weather", "ping"}),
        (NAMED, {"ping"}),
        ({"type": "allowed_tools", "mode": "required", "tools": [NAMED]}, {"ping"}),
    ],
)
def test_a_choice_of_tools_is_kept_and_told(
    server: Running, client: openai.OpenAI, choice: Any, calls: set[str]
):
    server.runner.script = ()
    asked: Any = ASK | {"tool_choice": choice, "max_output_tokens": 400, "parallel_tool_calls": False}
    response = client.responses.create(**asked)
    [item] = response.output
    assert item.type == "function_call"
    assert item.name in calls
    assert isinstance(json.loads(item.arguments), dict)
    told: Any = response.to_dict()["tool_choice"]
    assert told == ("required" if choice == "required" else NAMED)
    assert response.parallel_tool_calls is False


def test_none_calls_nothing(server: Running, client: openai.OpenAI):
    say(server, "It rains.")
    response = client.responses.create(**ASK | {"tool_choice": "none"})
    assert (response.output_text, response.tool_choice) == ("It rains.", "none")


def test_a_call_that_was_cut_is_incomplete(server: Running, client: openai.OpenAI):
    say(server, CALL)
    tokens = len(server.service.tokenizer.encode(CALL, special=False))
    response = client.responses.create(**ASK | {"max_output_tokens": tokens - 12})
    [item] = response.output
    assert (item.type, response.status) == ("function_call", "incomplete")
    assert item.status == "incomplete"


def test_thinking_comes_before_calls_and_back_with_them(tmp_path: Path):
    with (
        running(save_calling(tmp_path, THINKING), max_length=2048) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client,
    ):
        say(server, f"<think>\nRome?\n</think>\n\n{CALL}")
        response = client.responses.create(**ASK)
        assert [item.type for item in response.output] == ["reasoning", "function_call"]
        again: Any = [{"role": "user", "content": "x"}, *[item.model_dump() for item in response.output]]
        call: Any = response.output[1]
        again.append({"type": "function_call_output", "call_id": call.call_id, "output": "rain"})
        say(server, "It rains.")
        assert client.responses.create(**ASK | {"input": again}).output_text == "It rains."


CALLED = {"type": "function_call", "call_id": "x", "name": "y", "arguments": "{}"}


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"tools": [WEATHER | {"type": "web_search"}]}, "tools", "web_search"),
        ({"tools": [{"type": "code_interpreter", "container": {}}]}, "tools", "code_interpreter"),
        ({"tools": [{"type": "function", "function": {"name": "x"}}]}, "tools", "beside the type"),
        ({"tools": [WEATHER, WEATHER]}, "tools", "get_weather"),
        ({"tools": [WEATHER | {"name": "a b"}]}, "tools", "name"),
        ({"tools": [WEATHER | {"defer_loading": True}]}, "tools", "defer_loading"),
        ({"tools": "get_weather"}, "tools", "tools"),
        ({"tool_choice": {"type": "function", "name": "other"}}, "tool_choice", "other"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice", "tool_choice"),
        ({"tool_choice": "any"}, "tool_choice", "'name'"),
        ({"tool_choice": {"type": "function", "function": {"name": "ping"}}}, "tool_choice", "'name'"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}, "tool_choice", "'mode'"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice", "tools"),
        ({"ignore_eos": True}, "ignore_eos", "call"),
        ({"input": [{"type": "function_call_output", "call_id": "x", "output": "y"}]}, "input", "x"),
        ({"input": [CALLED | {"arguments": "{"}]}, "input", "JSON"),
        ({"input": [CALLED | {"namespace": "x"}]}, "input", "namespace"),
        ({"input": [CALLED | {"async": True}]}, "input", "async"),
        ({"input": [{"type": "function_call", "name": "y", "arguments": "{}"}]}, "input", "call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "x"}]}, "input", "output"),
        (
            {"input": [{"type": "function_call_output", "call_id": "x", "output": [{"type": "input_file"}]}]},
            "input",
            "input_file",
        ),
    ],
)
def test_what_cannot_be_called_is_named(server: Running, change: Any, param: str, words: str):
    response = server.post("responses", **(ASK | change))
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert words in error["message"]


def test_templates_that_show_no_tools_refuse_them(tmp_path: Path):
    with running(save_artefact(tmp_path)) as server:
        error = server.post("responses", **ASK).json()["error"]
        assert (error["param"], "shows no tools" in error["message"]) == ("tools", True)
