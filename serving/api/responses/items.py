"""The input of a response: items, as OpenAI's clients send and repeat them, to the messages of a chat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.api.limits import FieldError

Json = dict[str, Any]
Model = TypeVar("Model", bound=BaseModel)


class _Item(BaseModel):
    """`id`, `status` and `phase` come back from earlier answers and say nothing to a model."""

    model_config = ConfigDict(extra="forbid")

    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None


class MessageItem(_Item):
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Any] | None
    phase: Literal["commentary", "final_answer"] | None = None


class TextContent(BaseModel):
    """The other fields come back from earlier answers, `parsed` from OpenAI's client."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["input_text", "output_text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None
    parsed: Any = None


class RefusalContent(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["refusal"]
    refusal: str


class ReasoningText(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["reasoning_text", "summary_text"]
    text: str


class ReasoningItem(_Item):
    """Earlier thinking, which models do not read again."""

    type: Literal["reasoning"]
    summary: list[ReasoningText] = Field(default_factory=list)
    content: list[ReasoningText] | None = None
    encrypted_content: None = None


Reader = Callable[[Json, str], list[Json]]
"""From an item, and where it stands, to messages."""


def conversation(given: str | Sequence[Any], instructions: str | None) -> list[Json]:
    """The messages of a chat. Instructions come first, in one message with a system message that follows.

    Raises:
        FieldError: an item is malformed, or of a kind that is not supported.
    """
    messages = [{"role": "system", "content": instructions}] if instructions is not None else []
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    for place, item in enumerate(given):
        messages += _read(item, f"input.{place}")
    first, second = messages[:1], messages[1:2]
    if instructions is not None and second and second[0]["role"] in ("system", "developer"):
        joined = f"{instructions}\n\n{second[0]['content']}"
        return [first[0] | {"content": joined}, *messages[2:]]
    return messages


def _read(item: Any, place: str) -> list[Json]:
    if not isinstance(item, dict):
        raise FieldError("input", f"{place}: an item is a JSON object")
    kind = item.get("type") or "message"
    reader = READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        raise FieldError("input", f"{place}: items of the type {str(kind)[:60]!r} are not supported")
    return reader(item, place)


def _message(item: Json, place: str) -> list[Json]:
    message = checked(MessageItem, item, place)
    return [{"role": message.role, "content": _text(message, place)}]


def _text(message: MessageItem, place: str) -> str:
    if message.content is None and message.role != "assistant":
        raise FieldError("input", f"{place}.content: a message of the {message.role} has content")
    if not isinstance(message.content, list):
        return message.content or ""
    parts = enumerate(message.content)
    return "".join(_part(part, f"{place}.content.{index}") for index, part in parts)


def _part(part: Any, place: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("input_text", "output_text"):
        return checked(TextContent, part, place).text
    if kind == "refusal":
        return checked(RefusalContent, part, place).refusal
    if kind == "text":
        raise FieldError("input", f"{place}: text is of the type 'input_text' here, or 'output_text'")
    raise FieldError("input", f"{place}: the model reads text, not parts of the type {str(kind)[:60]!r}")


def _reasoning(item: Json, place: str) -> list[Json]:
    if item.get("encrypted_content") is not None:
        raise FieldError("input", f"{place}.encrypted_content: another server's thinking cannot be read")
    checked(ReasoningItem, item, place)
    return []


def checked(model: type[Model], document: Any, place: str) -> Model:
    """Raises FieldError."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = ".".join([place, *(str(part)[:60] for part in first["loc"])])
        raise FieldError("input", f"{path}: {first['msg']}") from None


READERS: dict[str, Reader] = {"message": _message, "reasoning": _reasoning}
