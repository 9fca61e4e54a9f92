"""LangChain's ChatOpenAI, by chat completions and by responses."""

from __future__ import annotations

from typing import Any, Literal

import openai
import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import get_usage_metadata_callback
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from conftest import HELLO, MODEL, PARIS, ROME, TRIP, URL, WEATHER, Count, Place, Trip

ASKED: list[dict[str, Any]] = []


@tool
def get_weather(city: Literal["Rome", "Paris"], days: Literal[1, 2, 3]) -> str:
    """The weather of a city."""
    ASKED.append({"city": city, "days": days})
    return {"Rome": "sunny", "Paris": "wet"}[city]


@pytest.fixture(params=["chat", "responses"])
def model(request: pytest.FixtureRequest) -> ChatOpenAI:
    ASKED.clear()
    return client(use_responses_api=request.param == "responses")


def client(**options: Any) -> ChatOpenAI:
    given = {"base_url": f"{URL}/v1", "api_key": "x", "model": MODEL, "max_retries": 0, "stream_usage": True}
    return ChatOpenAI(**given | options)


def told(message: Any, count: Count) -> Any:
    usage = message.usage_metadata
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    count(usage["input_tokens"], usage["output_tokens"])
    return message


def joined(parts: list[AIMessageChunk]) -> AIMessageChunk:
    whole = parts[0]
    for part in parts[1:]:
        whole += part
    return whole


def calls(message: AIMessage) -> list[tuple[str, dict[str, Any]]]:
    assert not message.invalid_tool_calls
    assert len({call["id"] for call in message.tool_calls}) == len(message.tool_calls)
    assert all(call["id"] for call in message.tool_calls)
    assert message.response_metadata.get("finish_reason", "tool_calls") == "tool_calls"
    return [(call["name"], call["args"]) for call in message.tool_calls]


def test_invoke(model: ChatOpenAI, count: Count) -> None:
    answer = told(model.invoke([("system", "Be brief."), ("human", "[[hello]]")]), count)
    assert answer.text == HELLO
    assert answer.response_metadata["model_name"] == MODEL
    if not model.use_responses_api:
        assert answer.response_metadata["finish_reason"] == "stop"


def test_stream(model: ChatOpenAI, count: Count) -> None:
    parts = list(model.stream("[[hello]]"))
    assert sum(bool(part.text) for part in parts) > 5
    assert told(joined(parts), count).text == HELLO


def test_batch(model: ChatOpenAI, count: Count) -> None:
    answers = model.batch(["[[hello]]", "[[trip]]"] * 3, {"max_concurrency": 4})
    assert [told(answer, count).text[:4] for answer in answers] == ["Once", '{"ci'] * 3


async def test_async(model: ChatOpenAI, count: Count) -> None:
    assert told(await model.ainvoke("[[hello]]"), count).text == HELLO
    parts = [part async for part in model.astream("[[hello]]")]
    assert told(joined(parts), count).text == HELLO
    answers = await model.abatch(["[[hello]]"] * 4)
    assert [told(answer, count).text for answer in answers] == [HELLO] * 4


def test_bound_tools(model: ChatOpenAI, count: Count) -> None:
    answer = told(model.bind_tools([get_weather]).invoke("[[both]]"), count)
    assert calls(answer) == [("get_weather", ROME), ("get_weather", PARIS)]
    assert answer.text == "I look at both."


def test_streamed_calls(model: ChatOpenAI, count: Count) -> None:
    parts = list(model.bind_tools([get_weather]).stream("[[both]]"))
    assert sum(len(part.tool_call_chunks) for part in parts) > 10
    whole = told(joined(parts), count)
    assert calls(whole) == [("get_weather", ROME), ("get_weather", PARIS)]
    assert whole.text == "I look at both."


@pytest.mark.parametrize("choice", ["any", "get_weather"])
def test_required_calls_match_the_schema_whatever_the_model_thinks(
    model: ChatOpenAI, choice: str, count: Count
) -> None:
    bound = model.bind_tools([get_weather, Place], tool_choice=choice, parallel_tool_calls=False)
    ((name, given),) = calls(told(bound.invoke("Go!", temperature=1.5), count))
    assert choice == "any" or name == choice
    (get_weather.args_schema if name == "get_weather" else Place).model_validate(given)


def test_tool_choice_none(model: ChatOpenAI, count: Count) -> None:
    answer = told(model.bind_tools([get_weather], tool_choice="none").invoke("[[hello]]"), count)
    assert not answer.tool_calls
    assert answer.text == HELLO


@pytest.mark.parametrize("script", ["weather", "both"])
def test_a_loop_by_hand(model: ChatOpenAI, script: str, count: Count) -> None:
    bound = model.bind_tools([get_weather])
    messages: list[Any] = [HumanMessage(f"[[{script}]] How is it?")]
    while (answer := told(bound.invoke(messages), count)).tool_calls:
        messages += [answer, *[get_weather.invoke(call) for call in answer.tool_calls]]
    assert [ROME, PARIS] == ASKED
    assert answer.text == WEATHER


def test_an_agent(model: ChatOpenAI, count: Count) -> None:
    agent = create_agent(model, [get_weather], system_prompt="Use the tools.")
    messages = agent.invoke({"messages": [("human", "[[weather]]")]})["messages"]
    for message in messages:
        if isinstance(message, AIMessage):
            told(message, count)
    assert [ROME, PARIS] == ASKED
    assert messages[-1].text == WEATHER


async def test_a_streamed_agent(model: ChatOpenAI, count: Count) -> None:
    agent = create_agent(model, [get_weather])
    stream = agent.astream({"messages": [("human", "[[weather]]")]}, stream_mode="messages")
    parts = [part async for part, _ in stream if isinstance(part, AIMessageChunk)]
    for part in parts:
        if part.usage_metadata:
            told(part, count)
    assert [ROME, PARIS] == ASKED
    assert "".join(part.text for part in parts) == WEATHER


METHODS = {"json_schema": "[[trip]]", "function_calling": "[[call trip]]", "json_mode": "JSON: [[trip]]"}


@pytest.mark.parametrize("method", METHODS)
def test_structured_output(model: ChatOpenAI, method: Any, count: Count) -> None:
    found = model.with_structured_output(Trip, method=method, include_raw=True).invoke(METHODS[method])
    told(found["raw"], count)
    assert found["parsing_error"] is None
    assert found["parsed"] == TRIP


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize("strict", [True, None])
def test_structured_output_whatever_the_model_thinks(
    model: ChatOpenAI, method: Any, strict: Any, count: Count
) -> None:
    shaped = model.with_structured_output(Place, method=method, strict=strict, include_raw=True)
    found = shaped.invoke("Where?", temperature=1.5, seed=3)
    told(found["raw"], count)
    assert isinstance(found["parsed"], Place)


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output_as_a_dictionary_streamed(model: ChatOpenAI, method: Any, count: Count) -> None:
    schema = TRIP.model_json_schema()
    shaped = model.with_structured_output(schema, method=method)
    with get_usage_metadata_callback() as used:
        parts = list(shaped.stream(METHODS[method]))
    (usage,) = used.usage_metadata.values()
    count(usage["input_tokens"], usage["output_tokens"])
    assert len(parts) > 5
    assert parts[-1] == TRIP.model_dump()


def test_log_probabilities(count: Count) -> None:
    answer = told(client(logprobs=True, top_logprobs=2).invoke("[[hello]]"), count)
    content = answer.response_metadata["logprobs"]["content"]
    assert "".join(one["token"] for one in content).startswith(HELLO)
    assert all(len(one["top_logprobs"]) == 2 for one in content)


def test_errors_are_the_clients_own(model: ChatOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="top_p"):
        model.invoke("x", top_p=7)
    with pytest.raises(openai.NotFoundError):
        client(model="nobody", use_responses_api=model.use_responses_api).invoke("x")
