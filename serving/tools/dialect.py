"""What a chat template does with tools, found out by giving it some."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.tokenizer import TemplateError
from serving.tools.form import Form
from serving.tools.registry import form_of

Render = Callable[..., str]
"""Messages, and variables of the template, to text; raises TemplateError."""
VARIABLES = ("tools", "xml_tools")
"""Names under which templates expect tools; SmolLM3 has the second."""

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
class Dialect:
    """How tools are given to a template, and what it makes of a history with calls.

    Attributes:
        variable: the name under which it expects tools.
        form: how the model writes calls; None: in a way that is not known here.
        shows_calls: whether earlier calls are written out; otherwise they have to be words of the assistant.
        shows_results: whether results are.
        text_arguments: whether it expects arguments as JSON text, not as a mapping.
    """

    variable: str
    form: Form | None
    shows_calls: bool
    shows_results: bool
    text_arguments: bool


def dialect_of(render: Render) -> Dialect | None:
    """None: the template shows no tools."""
    for variable in VARIABLES:
        shown = _rendered(render, [_user()], {variable: [_TOOL]})
        if _NAME in shown:
            return _with_history(render, variable, shown)
    return None


def _with_history(render: Render, variable: str, shown: str) -> Dialect:
    chats = {
        text: _rendered(render, [_user(), *_exchange(text)], {variable: [_TOOL]}) for text in (False, True)
    }
    text_arguments = _VALUE not in chats[False] and _VALUE in chats[True]
    chat = chats[text_arguments]
    return Dialect(
        variable=variable,
        form=form_of(chat or shown),
        shows_calls=_VALUE in chat,
        shows_results=_RESULT in chat,
        text_arguments=text_arguments,
    )


def _rendered(render: Render, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> str:
    try:
        return render(messages, **variables)
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
