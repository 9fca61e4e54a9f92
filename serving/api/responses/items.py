"""The items of a response's input: messages, earlier reasoning, tool calls and their results.

OpenAI's client repeats fields that it knows and did not receive as nulls.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from lathe.serving.api.strict import Strict

CallId = Annotated[str, Field(min_length=1, max_length=256)]


class _Item(Strict):
    """An item; `id` and `status` come back from earlier answers and mean nothing to a model."""

    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None


class MessageItem(_Item):
    """A message; `phase` means nothing to a model here."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Any] | None = None
    phase: Literal["commentary", "final_answer"] | None = None


class TextContent(Strict):
    """A text; some fields come back from earlier answers or from OpenAI's client, or are about caches."""

    dropped = frozenset({"cache_control", "prompt_cache_breakpoint"})

    type: Literal["input_text", "output_text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None
    parsed: Any = None


class RefusalContent(Strict):
    """A refusal of the assistant."""

    type: Literal["refusal"]
    refusal: str


class Thought(Strict):
    """A part of the model's reasoning."""

    type: Literal["reasoning_text", "summary_text"]
    text: str


class ReasoningItem(_Item):
    """The model's reasoning in an earlier turn."""

    type: Literal["reasoning"]
    summary: list[Thought] = Field(default_factory=list)
    content: list[Thought] | None = None

    @property
    def text(self) -> str:
        """The reasoning, or at least its summary."""
        return "".join(thought.text for thought in self.content or self.summary)


class FunctionCallItem(_Item):
    """A call; `parsed_arguments` come from OpenAI's client."""

    type: Literal["function_call"]
    call_id: CallId
    name: str
    arguments: str
    caller: Any = None
    parsed_arguments: Any = None


class FunctionCallOutput(_Item):
    """The result of a call."""

    type: Literal["function_call_output"]
    call_id: CallId
    output: str | list[Any]
    caller: Any = None
