"""The messages of a chat, as requests give them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic_core
from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from lathe.serving.api.strict import Strict

MEDIA = ("image", "audio", "video", "file", "document")
HARMLESS = frozenset(
    {
        "annotations",
        "cache_control",
        "index",
        "prompt_cache_breakpoint",
        "provider_specific_fields",
        "reasoning_details",
        "thinking_blocks",
    }
)
"""Fields that histories of other servers contain; they mean nothing to a text model."""


def complain(message: str, **values: Any) -> PydanticCustomError:
    """An error of validation that says just this."""
    return PydanticCustomError("unsupported", message, values)


class Lenient(Strict):
    """A model that drops unknown fields which are harmless."""

    dropped = HARMLESS


class TextPart(Lenient):
    """`{"type": "text", "text": ...}`, or an assistant's refusal."""

    type: Literal["text"]
    text: str

    @model_validator(mode="before")
    @classmethod
    def _refusal_as_text(cls, document: Any) -> Any:
        if isinstance(document, dict) and document.get("type") == "refusal":
            named = {"text" if name == "refusal" else name: value for name, value in document.items()}
            return named | {"type": "text"}
        return document

    @field_validator("type", mode="before")
    @classmethod
    def _text_only(cls, given: Any) -> Any:
        if not isinstance(given, str) or given == "text":
            return given
        if any(medium in given for medium in MEDIA):
            raise complain("this model reads text only, got {got}", got=given[:40])
        raise complain("parts have the type text, got {got}", got=given[:40])


def parsed(arguments: Any) -> Any:
    """A call's arguments: JSON text of an object, or the object."""
    if not isinstance(arguments, str):
        return arguments
    try:
        found = pydantic_core.from_json(arguments, allow_inf_nan=False) if arguments.strip() else {}
    except ValueError as error:
        raise complain("the arguments of a call are not valid JSON: {why}", why=str(error)[:200]) from None
    if not isinstance(found, dict):
        raise complain("the arguments of a call have to be a JSON object")
    return found


class CalledFunction(Lenient):
    """The function of a call; arguments are JSON text as OpenAI gives it, or an object."""

    name: str = Field(min_length=1, max_length=64)
    arguments: Annotated[
        dict[str, Any], BeforeValidator(parsed, json_schema_input_type=str | dict[str, Any])
    ] = Field(default_factory=dict)


class ToolCall(Lenient):
    """A call in an earlier message of the assistant."""

    id: str = Field(min_length=1, max_length=256)
    type: Literal["function"] = "function"
    function: CalledFunction

    @field_validator("type", mode="before")
    @classmethod
    def _functions_only(cls, given: Any) -> Any:
        if isinstance(given, str) and given != "function":
            raise complain("only calls of type function are supported, got {got}", got=given[:40])
        return given


class Message(Lenient):
    """One message; `reasoning_content` is the assistant's reasoning in an earlier turn."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] = Field([], max_length=128)
    tool_call_id: str | None = Field(None, min_length=1, max_length=256)
    reasoning_content: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _older_and_other_names(cls, document: Any) -> Any:
        if not isinstance(document, dict):
            return document
        given = {name: value for name, value in document.items() if value is not None and value != []}
        if given.get("function_call"):
            raise complain("function_call is the old form of tool_calls: give tool_calls, each with an id")
        if given.get("audio"):
            raise complain("this model has no audio: give the text of the answer")
        for name in ("function_call", "audio"):
            given.pop(name, None)
        thought = given.pop("reasoning", None)
        given.setdefault("reasoning_content", thought)
        refusal = given.pop("refusal", None)
        if refusal is not None and not given.get("content"):
            given["content"] = refusal
        return given

    @field_validator("role", mode="before")
    @classmethod
    def _no_functions(cls, given: Any) -> Any:
        if given == "function":
            raise complain("function is the old form: give a message of role tool with a tool_call_id")
        return given

    @model_validator(mode="after")
    def _whole(self) -> Message:
        if self.role == "assistant":
            self.content = self.content or ""
        elif self.content is None:
            raise complain("content is missing: only messages of the assistant may have none")
        elif self.tool_calls:
            raise complain("tool_calls belong to messages of the assistant")
        if (self.role == "tool") != (self.tool_call_id is not None):
            raise complain("tool_call_id belongs to messages of role tool, and to each of them")
        if self.role != "assistant":
            self.reasoning_content = None
        return self

    @property
    def text(self) -> str:
        """The whole content as text."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""
