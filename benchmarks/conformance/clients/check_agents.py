"""Loops of OpenAI's Agents SDK: tools called twice, by chat completions and by responses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pytest
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    SQLiteSession,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI

from conftest import HELLO, MODEL, PARIS, ROME, TRIP, URL, WEATHER, Count, Place, Trip

ASKED: list[dict[str, Any]] = []
KINDS = {"chat": OpenAIChatCompletionsModel, "responses": OpenAIResponsesModel}


@function_tool
def get_weather(city: Literal["Rome", "Paris"], days: Literal[1, 2, 3]) -> str:
    """The weather of a city.

    Args:
        city: Where.
        days: How far ahead.
    """
    ASKED.append({"city": city, "days": days})
    return "sunny"


@pytest.fixture(autouse=True)
def _no_tracing() -> Iterator[None]:
    set_tracing_disabled(True)
    ASKED.clear()
    return


@pytest.fixture(params=list(KINDS))
def model(request: pytest.FixtureRequest) -> Any:
    client = AsyncOpenAI(base_url=f"{URL}/v1", api_key="x", max_retries=0)
    return KINDS[request.param](MODEL, client)


def agent(model: Any, **options: Any) -> Agent:
    settings = options.pop("settings", ModelSettings(include_usage=True))
    return Agent("Helper", instructions="Help.", model=model, model_settings=settings, **options)


def told(result: Any, count: Count, requests: int) -> Any:
    usage = result.context_wrapper.usage
    assert usage.requests == requests
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    count(usage.input_tokens, usage.output_tokens, usage.requests)
    return result.final_output


@pytest.mark.parametrize(("script", "turns"), [("weather", 3), ("both", 2)])
async def test_an_agent_calls_a_tool_twice(model: Any, script: str, turns: int, count: Count) -> None:
    result = await Runner.run(agent(model, tools=[get_weather]), f"[[{script}]] How is it?")
    assert told(result, count, turns) == WEATHER
    assert [ROME, PARIS] == ASKED


@pytest.mark.parametrize(("script", "turns"), [("weather", 3), ("both", 2)])
async def test_a_streamed_agent_calls_a_tool_twice(model: Any, script: str, turns: int, count: Count) -> None:
    result = Runner.run_streamed(agent(model, tools=[get_weather]), f"[[{script}]] How is it?")
    kinds, text = [], ""
    async for event in result.stream_events():
        if event.type == "run_item_stream_event":
            kinds.append(event.name)
        elif event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            text += event.data.delta
    assert told(result, count, turns) == WEATHER
    assert [ROME, PARIS] == ASKED
    assert text.endswith(WEATHER)
    assert (kinds.count("tool_called"), kinds.count("tool_output")) == (2, 2)


async def test_a_forced_tool_ends_the_run(model: Any, count: Count) -> None:
    settings = ModelSettings(tool_choice="required", parallel_tool_calls=False, include_usage=True)
    options: Any = {"tools": [get_weather], "tool_use_behavior": "stop_on_first_tool", "settings": settings}
    result = await Runner.run(agent(model, **options), "Go!")
    assert told(result, count, 1) == "sunny"
    assert len(ASKED) == 1


@pytest.mark.parametrize("streamed", [False, True])
async def test_typed_output(model: Any, streamed: bool, count: Count) -> None:
    for kind, text, wanted in ((Trip, "[[trip]]", TRIP), (Place, "Where?", None)):
        typed = agent(model, output_type=kind)
        if streamed:
            result: Any = Runner.run_streamed(typed, text)
            async for _ in result.stream_events():
                pass
        else:
            result = await Runner.run(typed, text)
        found = told(result, count, 1)
        assert isinstance(found, kind)
        assert wanted is None or found == wanted


async def test_agents_hand_over(model: Any, count: Count) -> None:
    guide = Agent("Guide", instructions="Guide them.", model=model)
    result = await Runner.run(agent(model, handoffs=[guide]), "[[hand over]]")
    assert told(result, count, 2) == "I am the guide."
    assert result.last_agent is guide


async def test_a_session_remembers(model: Any, count: Count) -> None:
    session = SQLiteSession("a")
    first = await Runner.run(agent(model, tools=[get_weather]), "[[weather]]", session=session)
    assert told(first, count, 3) == WEATHER
    second = await Runner.run(agent(model), "And now? [[hello]]", session=session)
    assert told(second, count, 1) == HELLO
    assert second.context_wrapper.usage.input_tokens > 150
