"""Finds out how a chat template handles tools, by rendering probes with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lathe.serving.decoding.chat_template import TemplateError
from lathe.serving.tools.call_format import ToolCallFormat
from lathe.serving.tools.registry import format_of

Messages = Sequence[Mapping[str, Any]]
Render = Callable[[Messages, Messages], str]
"""Renders messages and tools; raises a TemplateError where the template refuses them."""

_NAME, _KEY, _VALUE, _RESULT, _ID = "lathe_probe", "probe_key", "probe_value", "probe_result", "a1b2c3d4e"
_TOOL = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "A probe.",
        "parameters": {"type": "object", "properties": {_KEY: {"type": "string", "description": "A key."}}},
    },
}


@dataclass(frozen=True, slots=True)
class ToolSupport:
    """How a template handles tools and a history with calls.

    Attributes:
        format: how the model writes calls; None: in a format that is not known here.
        shows_calls: whether earlier calls are rendered; otherwise they have to be text of the assistant.
        shows_results: whether results are rendered.
        text_arguments: whether it expects arguments as JSON text, not as a mapping.
        alone: whether it renders calls and results also where it is given no tools.
    """

    format: ToolCallFormat | None
    shows_calls: bool
    shows_results: bool
    text_arguments: bool
    alone: bool


def tool_support_of(render: Render) -> ToolSupport | None:
    """Returns how a template handles tools, or None if it shows none."""
    tools = [_TOOL]
    shown = _rendered(render, [_user()], tools)
    if _NAME not in shown:
        return None
    chats = {text: _rendered(render, [_user(), *_exchange(text)], tools) for text in (False, True)}
    text_arguments = _VALUE not in chats[False] and _VALUE in chats[True]
    chat = chats[text_arguments]
    bare = _rendered(render, [_user(), *_exchange(text_arguments)], [])
    return ToolSupport(
        format=format_of(chat or shown),
        shows_calls=_VALUE in chat,
        shows_results=_RESULT in chat,
        text_arguments=text_arguments,
        alone=all(word in bare for word in (_VALUE, _RESULT) if word in chat),
    )


def _rendered(render: Render, messages: Messages, tools: Messages) -> str:
    try:
        return render(messages, tools)
    except TemplateError:
        return ""


def _user() -> dict[str, Any]:
    return {"role": "user", "content": "A question."}


def _exchange(text_arguments: bool) -> list[dict[str, Any]]:
    arguments = f'{{"{_KEY}": "{_VALUE}"}}' if text_arguments else {_KEY: _VALUE}
    call = {"id": _ID, "type": "function", "function": {"name": _NAME, "arguments": arguments}}
    return [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": _RESULT, "tool_call_id": _ID, "name": _NAME},
    ]
