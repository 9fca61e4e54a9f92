"""Converts the input of a response to the messages of a chat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from lathe.serving.api.messages import Message
from lathe.serving.api.responses.items import (
    FunctionCallItem,
    FunctionCallOutput,
    MessageItem,
    ReasoningItem,
    RefusalContent,
    TextContent,
)
from lathe.serving.http.limits import FieldError
from lathe.serving.http.validation_errors import describe_problem

Json = dict[str, Any]
Model = TypeVar("Model", bound=BaseModel)


def conversation(given: str | Sequence[Any], instructions: str | None) -> list[Message]:
    """Returns the messages of a chat; instructions come first, merged with a system message that follows.

    Raises:
        FieldError: an item is malformed, or of a kind that is not supported.
    """
    reader = _Reader()
    if isinstance(given, str):
        reader.add("user", given)
    else:
        for place, item in enumerate(given):
            reader.read(item, f"input.{place}")
    if not reader.messages:
        raise FieldError("input", "input has nothing but earlier thinking")
    reader.instruct(instructions)
    return [checked(Message, message, "input") for message in reader.messages]


class _Reader:
    """Reads items in order; the reasoning, text and calls of one turn become one message."""

    def __init__(self) -> None:
        self.messages: list[Json] = []
        self._thought = ""
        self._readers: dict[str, Callable[[Json, str], None]] = {
            "message": self._message,
            "reasoning": self._reasoning,
            "function_call": self._call,
            "function_call_output": self._result,
        }

    def read(self, item: Any, place: str) -> None:
        """Reads one item.

        Raises:
            FieldError: the item is malformed or not supported.
        """
        if not isinstance(item, dict):
            raise FieldError("input", f"{place}: an item is a JSON object")
        kind = item.get("type") or "message"
        if not isinstance(kind, str) or kind not in self._readers:
            raise FieldError("input", f"{place}: items of the type {str(kind)[:60]!r} are not supported")
        self._readers[kind](item, place)

    def add(self, role: str, content: str, **more: Any) -> None:
        thought, self._thought = self._thought, ""
        if thought and role == "assistant":
            more["reasoning_content"] = thought
        self.messages.append({"role": role, "content": content} | more)

    def instruct(self, instructions: str | None) -> None:
        """Puts instructions in front."""
        if instructions is None:
            return
        if self.messages and self.messages[0]["role"] in ("system", "developer"):
            instructions = f"{instructions}\n\n{self.messages.pop(0)['content']}"
        self.messages.insert(0, {"role": "system", "content": instructions})

    def _message(self, item: Json, place: str) -> None:
        message = checked(MessageItem, item, place)
        if message.content is None and message.role != "assistant":
            raise FieldError("input", f"{place}.content: a message of the {message.role} has content")
        self.add(message.role, _text(message.content or "", f"{place}.content"))

    def _reasoning(self, item: Json, place: str) -> None:
        if item.get("encrypted_content") is not None:
            raise FieldError("input", f"{place}.encrypted_content: another server's thinking cannot be read")
        self._thought += checked(ReasoningItem, item, place).text

    def _call(self, item: Json, place: str) -> None:
        call = checked(FunctionCallItem, item, place)
        function = {"name": call.name, "arguments": call.arguments}
        if self._thought or not self.messages or self.messages[-1]["role"] != "assistant":
            self.add("assistant", "")
        calls = self.messages[-1].setdefault("tool_calls", [])
        calls.append({"id": call.call_id, "type": "function", "function": function})

    def _result(self, item: Json, place: str) -> None:
        result = checked(FunctionCallOutput, item, place)
        self.add("tool", _text(result.output, f"{place}.output"), tool_call_id=result.call_id)


def _text(content: str | list[Any], place: str) -> str:
    if isinstance(content, str):
        return content
    return "".join(_part(part, f"{place}.{index}") for index, part in enumerate(content))


def _part(part: Any, place: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("input_text", "output_text"):
        return checked(TextContent, part, place).text
    if kind == "refusal":
        return checked(RefusalContent, part, place).refusal
    if kind == "text":
        raise FieldError("input", f"{place}: text is of the type 'input_text' here, or 'output_text'")
    raise FieldError("input", f"{place}: the model reads text, not parts of the type {str(kind)[:60]!r}")


def checked(model: type[Model], document: Any, place: str) -> Model:
    """Validates a part of the input.

    Raises:
        FieldError: it is malformed.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        wrong = describe_problem(error, document)
        path = ".".join([place, *(str(part)[:60] for part in wrong.path)])
        raise FieldError("input", f"{path}: {wrong.message}") from None
