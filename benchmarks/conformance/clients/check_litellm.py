"""LiteLLM, by its `openai/` provider."""

from __future__ import annotations

import json
from typing import Any

import litellm
import pytest

from conftest import HELLO, MODEL, PARIS, ROME, TRIP, URL, WEATHER, Count, Place, Trip

PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Rome", "Paris"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
FUNCTION = {"name": "get_weather", "description": "The weather of a city.", "parameters": PARAMETERS}
TOOLS: Any = [{"type": "function", "function": FUNCTION}]
GIVEN: dict[str, Any] = {
    "model": f"openai/{MODEL}",
    "api_base": f"{URL}/v1",
    "api_key": "x",
    "max_retries": 0,
}

NATIVE: Any = {"litellm_provider": "openai", "mode": "chat", "supports_native_streaming": True}
"""Otherwise LiteLLM asks for a whole response of a model that it does not know, and cuts it up by itself."""


@pytest.fixture(scope="module", autouse=True)
def _really_streamed() -> None:
    litellm.register_model({GIVEN["model"]: NATIVE})


def said(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def told(answer: Any, count: Count) -> Any:
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    count(usage.prompt_tokens, usage.completion_tokens)
    return answer


def complete(text: str, count: Count, **options: Any) -> Any:
    return told(litellm.completion(messages=said(text), **GIVEN, **options), count).choices[0]


def streamed(text: str, count: Count, **options: Any) -> Any:
    """(pieces, the answer that LiteLLM makes of them)."""
    messages, usage = said(text), {"include_usage": True}
    stream = litellm.completion(messages=messages, stream=True, stream_options=usage, **GIVEN, **options)
    parts = list(stream)
    return parts, told(litellm.stream_chunk_builder(parts, messages=messages), count).choices[0]


def calls(message: Any) -> list[tuple[str, Any]]:
    assert len({call.id for call in message.tool_calls}) == len(message.tool_calls)
    return [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls]


def test_completion(count: Count) -> None:
    choice = complete("[[hello]]", count)
    assert (choice.message.content, choice.finish_reason) == (HELLO, "stop")


def test_stream(count: Count) -> None:
    parts, choice = streamed("[[hello]]", count)
    assert sum(bool(part.choices and part.choices[0].delta.content) for part in parts) > 5
    assert (choice.message.content, choice.finish_reason) == (HELLO, "stop")


async def test_async(count: Count) -> None:
    answer = await litellm.acompletion(messages=said("[[hello]]"), **GIVEN)
    assert told(answer, count).choices[0].message.content == HELLO


def test_several_answers(count: Count) -> None:
    answer = told(litellm.completion(messages=said("[[hello]]"), n=2, **GIVEN), count)
    assert [choice.message.content for choice in answer.choices] == [HELLO, HELLO]


def test_text_completion(count: Count) -> None:
    given = GIVEN | {"model": f"text-completion-openai/{MODEL}"}
    answer = told(litellm.text_completion(prompt="[[hello]]", max_tokens=50, **given), count)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (HELLO, "stop")


def test_tools(count: Count) -> None:
    choice = complete("[[both]]", count, tools=TOOLS, tool_choice="auto")
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "I look at both."
    assert calls(choice.message) == [("get_weather", ROME), ("get_weather", PARIS)]


def test_streamed_tools(count: Count) -> None:
    parts, choice = streamed("[[both]]", count, tools=TOOLS)
    assert sum(bool(part.choices and part.choices[0].delta.tool_calls) for part in parts) > 10
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "I look at both."
    assert calls(choice.message) == [("get_weather", ROME), ("get_weather", PARIS)]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_required_calls_match_the_schema_whatever_the_model_thinks(choice: Any, count: Count) -> None:
    found = complete("Go!", count, tools=TOOLS, tool_choice=choice, parallel_tool_calls=False)
    ((name, given),) = calls(found.message)
    assert name == "get_weather"
    assert set(given) == {"city", "days"}
    assert given["city"] in ("Rome", "Paris")
    assert 1 <= given["days"] <= 9


def test_a_tool_loop(count: Count) -> None:
    messages, asked = said("[[weather]]"), []
    while True:
        answer = told(litellm.completion(messages=messages, tools=TOOLS, **GIVEN), count)
        message = answer.choices[0].message
        if not message.tool_calls:
            break
        messages.append(message.model_dump())
        for call in message.tool_calls:
            asked.append(json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": "sunny"})
    assert asked == [ROME, PARIS]
    assert message.content == WEATHER


def test_structured_output(count: Count) -> None:
    choice = complete("[[trip]]", count, response_format=Trip)
    assert Trip.model_validate_json(choice.message.content) == TRIP
    assert Place.model_validate_json(complete("Where?", count, response_format=Place).message.content)
    assert json.loads(complete("[[trip]]", count, response_format={"type": "json_object"}).message.content)


def test_streamed_structured_output(count: Count) -> None:
    _, choice = streamed("Where?", count, response_format=Place, temperature=1.5)
    assert Place.model_validate_json(choice.message.content)


def respond(count: Count, **options: Any) -> Any:
    response = litellm.responses(**GIVEN, **options)
    count(response.usage.input_tokens, response.usage.output_tokens)
    return response


def output_text(response: Any) -> str:
    return "".join(p.text for item in response.output if item.type == "message" for p in item.content)


RESPONSES_TOOLS: Any = [{"type": "function", **FUNCTION, "strict": True}]


def test_responses(count: Count) -> None:
    response = respond(count, input="[[hello]]", instructions="Be brief.")
    assert response.status == "completed"
    assert output_text(response) == HELLO


def test_a_tool_loop_of_responses(count: Count) -> None:
    items: list[Any] = said("[[weather]]")
    asked = []
    while True:
        response = respond(count, input=items, tools=RESPONSES_TOOLS)
        found = [item for item in response.output if item.type == "function_call"]
        if not found:
            break
        for call in found:
            asked.append(json.loads(call.arguments))
            items.append(call.model_dump())
            items.append({"type": "function_call_output", "call_id": call.call_id, "output": "wet"})
    assert asked == [ROME, PARIS]
    assert output_text(response) == WEATHER


def test_streamed_responses(count: Count) -> None:
    events = list(litellm.responses(input="[[both]]", tools=RESPONSES_TOOLS, stream=True, **GIVEN))
    deltas = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    assert len(deltas) > 12
    final = events[-1]
    assert final.type == "response.completed"
    count(final.response.usage.input_tokens, final.response.usage.output_tokens)
    assert json.loads("[" + "".join(deltas).replace("}{", "},{") + "]") == [ROME, PARIS]


def test_errors_are_the_clients_own() -> None:
    with pytest.raises(litellm.BadRequestError, match="top_p"):
        litellm.completion(messages=said("x"), top_p=7, **GIVEN)
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(messages=said("x"), **GIVEN | {"model": "openai/nobody"})
