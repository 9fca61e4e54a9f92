"""Tool calling, as the openai client asks for it, on a real server with each family's form of template."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
import openai
import pytest
from pydantic import BaseModel, Field

from support.thinking_model import say
from support.tiny_server import CHAT_TEMPLATE, NAME, Running, running, save_artefact
from support.tool_models import CODER, QWEN, SMOLLM, TEMPLATES, THINKING, save_calling

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Paris", "Rome"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 14},
            },
            "required": ["city", "days"],
        },
    },
}
PING: dict[str, Any] = {"type": "function", "function": {"name": "ping", "strict": True}}
TOOLS = [WEATHER, PING]
ASK: Any = [{"role": "user", "content": "How is the weather in Rome?"}]
CALL = {"get_weather": '{"city": "Rome", "days": 3}', "ping": "{}"}
WRITTEN = {
    "hermes": '<tool_call>\n{"name": "get_weather", "arguments": ARGS}\n</tool_call>',
    "llama3_json": '{"name": "get_weather", "parameters": ARGS}',
    "mistral_list": '[TOOL_CALLS][{"name": "get_weather", "arguments": ARGS}]',
    "mistral_args": "[TOOL_CALLS]get_weather[ARGS]ARGS",
    "mistral_call_id": "[TOOL_CALLS]get_weather[CALL_ID]Ab3Ab3Ab3[ARGS]ARGS",
}


@pytest.fixture(scope="module", params=list(TEMPLATES))
def family(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Running]]:
    artefact = save_calling(tmp_path_factory.mktemp("artefact"), TEMPLATES[request.param])
    with running(artefact, max_length=2048) as server:
        yield request.param, server


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(save_calling(tmp_path_factory.mktemp("qwen"), QWEN), max_length=2048) as server:
        yield server


@pytest.fixture(autouse=True)
def _says_what_it_likes(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    for name in ("family", "qwen"):
        if name in request.fixturenames:
            found = request.getfixturevalue(name)
            (found[1] if isinstance(found, tuple) else found).runner.script = ()


def ask(server: Running, **options: Any) -> Any:
    given = {"model": NAME, "messages": ASK, "tools": TOOLS, "max_tokens": 400, "seed": 1} | options
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client:
        answer = client.chat.completions.create(**given)
        return list(answer) if options.get("stream") else answer


def streamed(server: Running, **options: Any) -> tuple[str | None, list[dict[str, Any]], str]:
    """(content, calls, finish reason), and every delta is checked for OpenAI's shape."""
    content: str | None = None
    calls: list[dict[str, Any]] = []
    finish = ""
    stream = ask(server, stream=True, **options)
    assert stream[0].choices[0].delta.role == "assistant"
    assert stream[0].choices[0].delta.content is None
    for part in stream:
        assert part.object == "chat.completion.chunk"
        choice = part.choices[0]
        assert not finish
        finish = choice.finish_reason or ""
        if choice.delta.content is not None:
            assert choice.delta.content
            assert not choice.delta.tool_calls
            content = (content or "") + choice.delta.content
        for call in choice.delta.tool_calls or ():
            if call.index == len(calls):
                assert call.type == "function"
                assert call.function.arguments == ""
                calls.append({"id": call.id, "name": call.function.name, "arguments": ""})
            else:
                assert call.index == len(calls) - 1
                assert call.id is None
                assert call.function.name is None
                assert call.function.arguments
                calls[-1]["arguments"] += call.function.arguments
    return content, calls, finish


def test_s10_nothing_goes_on_from_a_call(qwen: Running):
    call = {"id": "a", "type": "function", "function": {"name": "ping", "arguments": "{}"}}
    for content in (None, "", "Let me see."):
        messages = [*ASK, {"role": "assistant", "content": content, "tool_calls": [call]}]
        with pytest.raises(openai.BadRequestError, match="ends with tool calls") as refused:
            ask(qwen, messages=messages, extra_body={"continue_final_message": True})
        assert refused.value.param == "continue_final_message"


def check_arguments(name: str, arguments: str) -> None:
    found = json.loads(arguments)
    if name == "ping":
        assert found == {}
        return
    assert set(found) == {"city", "days"}
    assert found["city"] in ("Paris", "Rome")
    assert 1 <= found["days"] <= 14


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_call_that_is_asked_for_is_made_and_matches_its_schema(
    family: tuple[str, Running], choice: Any, seed: int
):
    name, server = family
    options: dict[str, Any] = {
        "tool_choice": choice,
        "seed": seed,
        "parallel_tool_calls": False,
        "temperature": 2,
    }
    answer = ask(server, **options).choices[0]
    assert answer.finish_reason == "tool_calls"
    assert answer.message.content is None
    (call,) = answer.message.tool_calls
    assert call.type == "function"
    assert re.fullmatch("[a-zA-Z0-9]{9}" if "mistral" in name else "call_[0-9a-f]{24}", call.id)
    assert call.function.name == "get_weather" or choice == "required"
    check_arguments(call.function.name, call.function.arguments)
    content, calls, finish = streamed(server, **options)
    assert (content, finish) == (None, "tool_calls")
    assert [(one["name"], one["arguments"]) for one in calls] == [
        (call.function.name, call.function.arguments)
    ]


def test_a_model_that_calls_by_itself_is_held_to_the_schema(family: tuple[str, Running]):
    """Words first where the form allows it; `days` of 77 is not what comes out."""
    name, server = family
    words = "" if name == "llama3_json" else "I look."
    say(server, words + WRITTEN[name].replace("ARGS", '{"city": "Rome", "days": 77}'))
    answer = ask(server, parallel_tool_calls=False).choices[0]
    assert answer.finish_reason == "tool_calls"
    assert (answer.message.content or "") == words
    (call,) = answer.message.tool_calls
    assert call.function.name == "get_weather"
    check_arguments("get_weather", call.function.arguments)
    content, calls, finish = streamed(server, parallel_tool_calls=False)
    assert ((content or ""), finish) == (words, "tool_calls")
    assert calls[0]["arguments"] == call.function.arguments


def test_a_model_that_only_speaks_is_left_alone(family: tuple[str, Running]):
    _, server = family
    for text in ("The lazy dog.", '{"a": [1, 2]} < [ or so', "\n two lines\n"):
        say(server, text)
        for choice in ("auto", "none"):
            answer = ask(server, tool_choice=choice).choices[0]
            assert (answer.message.content, answer.finish_reason) == (text, "stop")
            assert answer.message.tool_calls is None
        content, calls, finish = streamed(server)
        assert (content, calls, finish) == (text, [], "stop")


def test_none_calls_nothing_and_shows_no_tools(family: tuple[str, Running]):
    name, server = family
    say(server, WRITTEN[name].replace("ARGS", CALL["get_weather"]))
    answer = ask(server, tool_choice="none", max_tokens=40)
    assert answer.choices[0].message.tool_calls is None
    without = ask(server, tools=openai.NOT_GIVEN, max_tokens=1).usage.prompt_tokens
    assert answer.usage.prompt_tokens == without
    assert ask(server, max_tokens=1).usage.prompt_tokens > without


def test_a_history_with_calls_goes_to_the_template(family: tuple[str, Running]):
    """S6: contents null, absent or empty; results as text or parts; ids of another server."""
    _, server = family
    call = {"id": "call_0123456789abcdef01234567", "type": "function"}
    call["function"] = {"name": "get_weather", "arguments": CALL["get_weather"]}
    counts = set()
    for content in ({"content": None}, {}, {"content": ""}, {"content": []}):
        for result in ("sunny", [{"type": "text", "text": "sunny"}]):
            messages = [
                *ASK,
                {"role": "assistant", "tool_calls": [call]} | content,
                {"role": "tool", "tool_call_id": call["id"], "content": result},
            ]
            counts.add(ask(server, messages=messages, max_tokens=1).usage.prompt_tokens)
            assert ask(server, messages=messages, tools=openai.NOT_GIVEN, max_tokens=1)
    assert len(counts) == 1
    body = {"messages": messages, "tools": TOOLS}
    tokens = httpx.post(f"{server.url}/tokenize", json=body, timeout=30).json()
    assert tokens["count"] in counts
    text = httpx.post(f"{server.url}/detokenize", json={"tokens": tokens["tokens"]}, timeout=30).json()[
        "prompt"
    ]
    assert '{"city": "Rome", "days": 3}' in text
    assert "sunny" in text
    assert "get_weather" in text
    assert "strict" not in text


def test_several_calls_and_words_before_them(qwen: Running):
    one = WRITTEN["hermes"].replace("ARGS", CALL["get_weather"])
    two = one.replace("get_weather", "ping").replace(CALL["get_weather"], "{}")
    say(qwen, f"Both.\n{one}\n{two}")
    answer = ask(qwen).choices[0]
    assert answer.message.content == "Both."
    calls = [(call.function.name, call.function.arguments) for call in answer.message.tool_calls]
    assert calls == list(CALL.items())
    content, told, finish = streamed(qwen)
    assert (content, finish) == ("Both.", "tool_calls")
    assert [(call["name"], call["arguments"]) for call in told] == calls
    alone = ask(qwen, parallel_tool_calls=False).choices[0]
    assert len(alone.message.tool_calls) == 1
    assert alone.finish_reason == "tool_calls"


def test_allowed_tools_are_the_only_ones_that_are_called(qwen: Running):
    allowed = {"type": "function", "function": {"name": "ping"}}
    for mode in ("auto", "required"):
        choice = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [allowed]}}
        say(qwen, WRITTEN["hermes"].replace("ARGS", CALL["get_weather"]))
        answer = ask(qwen, tool_choice=choice, parallel_tool_calls=False).choices[0]
        assert [call.function.name for call in answer.message.tool_calls] == ["ping"]


def test_stop_strings_end_words_and_not_calls(qwen: Running):
    say(qwen, "I look.\n" + WRITTEN["hermes"].replace("ARGS", CALL["get_weather"]))
    answer = ask(qwen, stop=["Rome", "\n{"]).choices[0]
    assert answer.finish_reason == "tool_calls"
    assert answer.message.tool_calls[0].function.arguments == CALL["get_weather"]
    assert ask(qwen, stop=["look"]).choices[0].message.content == "I "
    required = ask(qwen, stop=['"', "a", " "], tool_choice="required", parallel_tool_calls=False).choices[0]
    check_arguments(
        required.message.tool_calls[0].function.name, required.message.tool_calls[0].function.arguments
    )


def test_an_answer_that_is_cut_off_says_so(qwen: Running):
    say(qwen, WRITTEN["hermes"].replace("ARGS", CALL["get_weather"]))
    whole = ask(qwen, logprobs=True).choices[0]
    tokens = len(whole.logprobs.content)
    for limit in range(1, tokens, 5):
        choice = ask(qwen, max_tokens=limit).choices[0]
        assert choice.finish_reason == "length"
        assert "tool_call" not in (choice.message.content or "")
        for call in choice.message.tool_calls or ():
            assert CALL["get_weather"].startswith(call.function.arguments)
        content, calls, finish = streamed(qwen, max_tokens=limit)
        assert finish == "length"
        assert (content or None) == (choice.message.content or None)
        assert len(calls) == len(choice.message.tool_calls or ())


def test_every_choice_has_calls_of_its_own(qwen: Running):
    answer = ask(qwen, n=3, tool_choice="required", temperature=2, parallel_tool_calls=False)
    ids = [choice.message.tool_calls[0].id for choice in answer.choices]
    assert len(set(ids)) == 3


def test_an_answer_in_json_or_a_call(qwen: Running):
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["yes", "no"]}}}
    say(qwen, '"yes"')
    assert ask(qwen, response_format=shape).choices[0].message.content == '"yes"'
    say(qwen, WRITTEN["hermes"].replace("ARGS", CALL["get_weather"]))
    assert ask(qwen, response_format=shape).choices[0].finish_reason == "tool_calls"


def test_a_bad_answers_schema_is_not_blamed_on_the_tools(qwen: Running):
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "robot"}}}
    refused(qwen, {"messages": ASK, "tools": TOOLS, "response_format": shape}, "response_format", "robot")


def test_json_beside_calls_without_marks_is_refused(family: tuple[str, Running]):
    name, server = family
    if name != "llama3_json":
        return
    body = {"messages": ASK, "tools": TOOLS, "response_format": {"type": "json_object"}}
    refused(server, body, "response_format", "tell this model's calls from an answer")


def test_words_of_a_schema_that_are_not_enforced_are_refused_where_it_is_strict(qwen: Running):
    sets = {
        "type": "object",
        "properties": {"a": {"type": "array", "items": {"enum": ["x"]}, "uniqueItems": True}},
    }
    tool = {"type": "function", "function": {"name": "pick", "parameters": sets}}
    assert (
        ask(qwen, tools=[tool], tool_choice="required", parallel_tool_calls=False)
        .choices[0]
        .message.tool_calls
    )
    strict = {"type": "function", "function": tool["function"] | {"strict": True}}
    refused(qwen, {"messages": ASK, "tools": [PING, strict]}, "tools", "'pick'.*uniqueItems")


def test_arguments_that_nobody_described_are_not_made(qwen: Running):
    say(qwen, WRITTEN["hermes"].replace("ARGS", '{"city": "Rome", "days": 3, "colour": "red"}'))
    assert ask(qwen).choices[0].message.tool_calls[0].function.arguments == CALL["get_weather"]


def refused(server: Running, body: dict[str, Any], param: str, words: str) -> None:
    response = server.post("chat/completions", **body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert re.search(words, error["message"]), error["message"]
    assert "\n" not in error["message"]
    assert len(error["message"]) < 400


def tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f"} | function}


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"tools": [PING, PING]}, "tools", "two of the tools are called 'ping'"),
        ({"tools": [tool(name="no spaces")]}, "tools", r"tools\.0\.function\.name"),
        ({"tools": [tool(name="x" * 65)]}, "tools", r"tools\.0\.function\.name"),
        ({"tools": [tool(parameters={"type": "robot"})]}, "tools", "'f' have to be of type object"),
        ({"tools": [tool(parameters={"properties": {"a": {"type": "robot"}}})]}, "tools", "'f'.*robot"),
        ({"tools": [tool(parameters={"$ref": "#/$defs/none"})]}, "tools", "'f'"),
        ({"tools": [tool(parameters=[])]}, "tools", r"tools\.0\.function\.parameters"),
        ({"tools": [tool(parameters={"properties": {"a": {}}, "required": 5})]}, "tools", "'f'"),
        ({"tools": [tool(parameters={"properties": {"a": {}}, "required": [{}]})]}, "tools", "'f'"),
        ({"tools": [tool(parameters={"properties": [], "required": ["a"]})]}, "tools", "'f'"),
        ({"tools": [tool(parameters={"properties": {"a": 5}})]}, "tools", "'f'"),
        ({"tools": [tool(colour=1)]}, "tools", r"tools\.0\.function\.colour"),
        (
            {"tools": [{"type": "web_search"}]},
            "tools",
            r"tools\.0\.type: only tools of type function.*web_search",
        ),
        (
            {"tools": [{"type": "custom", "custom": {"name": "x"}}]},
            "tools",
            "only tools of type function.*custom",
        ),
        ({"tools": [tool(name=f"f{i}") for i in range(129)]}, "tools", "at most 128"),
        ({"tools": {"a": 1}}, "tools", "valid list"),
        ({"tools": [tool(parameters={"title": "x" * 70_000})]}, "tools", "f"),
        ({"tool_choice": "any"}, "tool_choice", "none, auto, required"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "nobody"}}},
            "tool_choice",
            "no tool 'nobody'",
        ),
        ({"tool_choice": {"type": "function", "name": "ping"}}, "tool_choice", "none, auto, required"),
        ({"tool_choice": 1}, "tool_choice", "none, auto, required"),
        (
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}},
            "tool_choice",
            "allowed_tools",
        ),
        ({"tools": None, "tool_choice": "required"}, "tool_choice", "only allowed when tools"),
        (
            {"tools": [], "tool_choice": {"type": "function", "function": {"name": "ping"}}},
            "tool_choice",
            "only allowed when tools",
        ),
        ({"functions": [{"name": "f"}]}, "functions", "use tools"),
        ({"function_call": {"name": "f"}}, "function_call", "use tool_choice"),
        ({"parallel_tool_calls": "maybe"}, "parallel_tool_calls", "boolean"),
        ({"ignore_eos": True}, "ignore_eos", "ends with its last call"),
        ({"min_tokens": 5}, "min_tokens", "ends with its last call"),
    ],
)
def test_what_is_no_tool_is_refused_by_name(qwen: Running, change: dict[str, Any], param: str, words: str):
    refused(qwen, {"messages": ASK, "tools": TOOLS, "max_tokens": 20} | change, param, words)


def test_neutral_choices_need_no_tools(qwen: Running):
    for choice in ("none", "auto"):
        assert (
            qwen.post(
                "chat/completions", messages=ASK, max_tokens=1, tools=[], tool_choice=choice
            ).status_code
            == 200
        )


def test_many_tools_are_taken(qwen: Running):
    tools = [tool(name=f"f{i}") for i in range(12)]
    answer = ask(qwen, tools=tools, tool_choice={"type": "function", "function": {"name": "f11"}})
    assert answer.choices[0].message.tool_calls[0].function.name == "f11"


def test_templates_without_tools_refuse_them(tmp_path: Path):
    with running(save_artefact(tmp_path)) as server:
        refused(
            server, {"messages": ASK, "tools": TOOLS}, "tools", "this model's chat template shows no tools"
        )
        call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        calls = {"role": "assistant", "content": None, "tool_calls": [call]}
        refused(
            server,
            {"messages": [*ASK, calls]},
            "messages",
            r"messages\.1\.tool_calls: .* shows no tool calls",
        )
        assert server.post("chat/completions", messages=ASK, max_tokens=1, tools=TOOLS, tool_choice="none")
        response = httpx.post(f"{server.url}/tokenize", json={"messages": ASK, "tools": TOOLS}, timeout=30)
        assert response.status_code == 400
        assert "tools" in response.json()["error"]["message"]


def test_a_template_of_its_own_for_tools(tmp_path: Path):
    """Histories with calls go to it, or are refused where it would not be used."""
    call = {"id": "a", "type": "function", "function": {"name": "ping", "arguments": "{}"}}
    history = [
        *ASK,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "pong"},
    ]
    with running(
        save_calling(tmp_path, {"default": CHAT_TEMPLATE, "tool_use": QWEN}), max_length=2048
    ) as server:
        assert ask(server, messages=history, max_tokens=1)
        assert ask(server, tool_choice="required", parallel_tool_calls=False).choices[0].message.tool_calls
        refused(
            server,
            {"messages": history},
            "messages",
            r"messages\.1\.tool_calls: .*only where it is given tools",
        )


def test_unknown_forms_refuse_tools_and_smollm_gets_its_own(tmp_path: Path):
    """SmolLM3's template names its tools otherwise, and leaves earlier calls out: they become words."""
    with running(save_calling(tmp_path / "coder", CODER), max_length=2048) as server:
        refused(server, {"messages": ASK, "tools": TOOLS}, "tools", "a form that is not read here.*hermes")
    with running(save_calling(tmp_path / "smollm", SMOLLM), max_length=2048) as server:
        answer = ask(server, tool_choice="required", parallel_tool_calls=False).choices[0]
        assert answer.message.tool_calls
        call = {"id": "a", "type": "function", "function": {"name": "ping", "arguments": "{}"}}
        messages = [
            *ASK,
            {"role": "assistant", "content": "Well.", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "a", "content": "pong"},
        ]
        tokens = httpx.post(
            f"{server.url}/tokenize", json={"messages": messages, "tools": TOOLS}, timeout=30
        ).json()
        text = server.service.tokenizer.decode(tokens["tokens"], special=True)
        assert 'Well.\n<tool_call>\n{"name": "ping", "arguments": {}}\n</tool_call><|user|>pong' in text
        assert "get_weather" in text


def test_a_model_may_think_before_it_calls(tmp_path: Path):
    """What it thinks is free and no part of the call, also where a call is required."""
    call = WRITTEN["hermes"].replace("ARGS", CALL["get_weather"])
    with running(save_calling(tmp_path, THINKING), max_length=2048) as server:
        say(server, f"<think>\nRome, {{then}}.\n</think>\n\n{call}")
        for choice in ("auto", "required"):
            answer = ask(server, tool_choice=choice, parallel_tool_calls=False).choices[0]
            assert answer.message.reasoning_content == "Rome, {then}."
            assert answer.message.content is None
            assert answer.message.tool_calls[0].function.arguments == CALL["get_weather"]
            assert answer.finish_reason == "tool_calls"
        body = {"chat_template_kwargs": {"enable_thinking": False}}
        say(server, call)
        direct = ask(server, tool_choice="required", parallel_tool_calls=False, extra_body=body).choices[0]
        assert direct.message.tool_calls[0].function.arguments == CALL["get_weather"]
        assert not hasattr(direct.message, "reasoning_content")


class Look(BaseModel):
    """Look at the sky."""

    place: Literal["Paris", "Rome"]
    hours: list[Annotated[int, Field(ge=0, le=23)]] = Field(max_length=3)


def test_the_clients_own_helpers_understand_calls(qwen: Running):
    """Pydantic models as tools, parsed arguments, and the events of its stream."""
    asked: Any = {
        "model": NAME,
        "messages": ASK,
        "tools": [openai.pydantic_function_tool(Look)],
        "seed": 3,
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "max_tokens": 400,
        "temperature": 2,
    }
    with openai.OpenAI(base_url=f"{qwen.url}/v1", api_key="x", max_retries=0) as client:
        (call,) = client.chat.completions.parse(**asked).choices[0].message.tool_calls
        assert isinstance(call.function.parsed_arguments, Look)
        with client.chat.completions.stream(**asked) as stream:
            events = [event.type for event in stream]
            final = stream.get_final_completion().choices[0]
    assert "tool_calls.function.arguments.delta" in events
    assert "tool_calls.function.arguments.done" in events
    assert "content.delta" not in events
    assert final.finish_reason == "tool_calls"
    assert final.message.tool_calls[0].function.parsed_arguments == call.function.parsed_arguments


def test_an_agents_loop_calls_a_tool_twice(qwen: Running):
    """What the server answers goes back to it as it is, with the client's own fields."""
    messages: list[Any] = [*ASK]
    counts = []
    for turn in range(2):
        answer = ask(qwen, messages=messages, tool_choice="required", parallel_tool_calls=False, seed=turn)
        message = answer.choices[0].message
        counts.append(answer.usage.prompt_tokens)
        messages.append(message.model_dump())
        call = message.tool_calls[0]
        messages.append({"role": "tool", "tool_call_id": call.id, "content": f"result {turn}"})
    say(qwen, "It is sunny.")
    last = ask(qwen, messages=messages)
    assert last.choices[0].message.content == "It is sunny."
    assert counts[0] < counts[1] < last.usage.prompt_tokens
