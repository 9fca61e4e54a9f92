"""Pydantic AI: agents with tools and typed output, by chat completions and by responses."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic_ai import Agent, NativeOutput, PromptedOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from conftest import HELLO, MODEL, PARIS, ROME, TRIP, URL, WEATHER, Count, Place, Trip

ASKED: list[dict[str, Any]] = []
KINDS = {"chat": OpenAIChatModel, "responses": OpenAIResponsesModel}


def get_weather(city: Literal["Rome", "Paris"], days: Literal[1, 2, 3]) -> str:
    """The weather of a city."""
    ASKED.append({"city": city, "days": days})
    return "sunny"


@pytest.fixture(params=list(KINDS))
def model(request: pytest.FixtureRequest) -> Any:
    ASKED.clear()
    return KINDS[request.param](MODEL, provider=OpenAIProvider(base_url=f"{URL}/v1", api_key="x"))


def told(usage: Any, count: Count, requests: int) -> None:
    assert usage.requests == requests
    count(usage.input_tokens, usage.output_tokens, usage.requests)


@pytest.mark.parametrize(("script", "turns"), [("weather", 3), ("both", 2)])
async def test_an_agent_calls_a_tool_twice(model: Any, script: str, turns: int, count: Count) -> None:
    result = await Agent(model, tools=[get_weather]).run(f"[[{script}]]")
    told(result.usage, count, turns)
    assert sorted(ASKED, key=lambda given: given["city"], reverse=True) == [ROME, PARIS]
    assert result.output == WEATHER


async def test_a_streamed_agent(model: Any, count: Count) -> None:
    async with Agent(model, tools=[get_weather]).run_stream("[[weather]]") as result:
        text = "".join([part async for part in result.stream_text(delta=True, debounce_by=None)])
    told(result.usage, count, 3)
    assert [ROME, PARIS] == ASKED
    assert text == WEATHER


OUTPUTS = {"[[call trip]]": ToolOutput(Trip, name="Trip"), "[[trip]]": NativeOutput(Trip)}


@pytest.mark.parametrize("text", OUTPUTS)
async def test_typed_output(model: Any, text: str, count: Count) -> None:
    result = await Agent(model, output_type=OUTPUTS[text]).run(text)
    told(result.usage, count, 1)
    assert result.output == TRIP


async def test_prompted_output(model: Any, count: Count) -> None:
    result = await Agent(model, output_type=PromptedOutput(Trip)).run("[[trip]]")
    told(result.usage, count, 1)
    assert result.output == TRIP


@pytest.mark.parametrize("shape", [ToolOutput(Place), NativeOutput(Place)])
async def test_typed_output_whatever_the_model_thinks(model: Any, shape: Any, count: Count) -> None:
    settings: Any = {"parallel_tool_calls": False} if isinstance(shape, ToolOutput) else {}
    result = await Agent(model, output_type=shape, model_settings=settings).run("Where?")
    told(result.usage, count, 1)
    assert isinstance(result.output, Place)


async def test_a_conversation(model: Any, count: Count) -> None:
    first = await Agent(model, tools=[get_weather]).run("[[weather]]")
    told(first.usage, count, 3)
    second = await Agent(model).run("[[hello]]", message_history=first.all_messages())
    told(second.usage, count, 1)
    assert second.output == HELLO
