"""Functions as responses name them, without the nesting of chats."""

from __future__ import annotations

from typing import Any

from lathe.serving.api.tool_fields import Chosen, FunctionTool
from lathe.serving.http.limits import FieldError

Json = dict[str, Any]
PARTS = ("name", "description", "parameters", "strict")


def as_chat_tools(given: Any) -> Any:
    """Converts `tools` to the form of chats.

    Raises:
        FieldError: a tool that the server would have to run itself.
    """
    if not isinstance(given, list):
        return given
    return [_as_chat_tool(tool, f"tools.{place}") for place, tool in enumerate(given)]


def _as_chat_tool(tool: Any, place: str) -> Any:
    if not isinstance(tool, dict):
        return tool
    kind = tool.get("type")
    if isinstance(kind, str) and kind != "function":
        raise FieldError(
            "tools", f"{place}: tools of the type {kind[:60]!r} are not supported, functions are"
        )
    if "function" in tool:
        raise FieldError(
            "tools", f"{place}: name and parameters stand beside the type here, not in 'function'"
        )
    others = {name: value for name, value in tool.items() if name not in PARTS and value is not None}
    return others | {"function": {name: tool[name] for name in PARTS if name in tool}}


def as_chat_choice(given: Any) -> Any:
    """Converts `tool_choice` to the form of chats.

    Raises:
        FieldError: it is malformed.
    """
    match given:
        case None | "none" | "auto" | "required":
            return given
        case {"type": "function", "name": str(name), **others} if not others:
            return {"type": "function", "function": {"name": name}}
        case {
            "type": "allowed_tools",
            "mode": "auto" | "required" as mode,
            "tools": [_, *_] as tools,
            **others,
        } if not others:
            allowed = {"mode": mode, "tools": [as_chat_choice(tool) for tool in tools]}
            return {"type": "allowed_tools", "allowed_tools": allowed}
    raise FieldError(
        "tool_choice",
        "tool_choice is none, auto, required, {'type': 'function', 'name': ...} or "
        "{'type': 'allowed_tools', 'mode': 'auto' or 'required', 'tools': [...]}",
    )


def told_tool(tool: FunctionTool) -> Json:
    """Converts a tool to the form in which a response repeats it."""
    return {"type": "function"} | {name: getattr(tool.function, name) for name in PARTS}


def told_choice(chosen: Chosen | None) -> Json | str:
    """Converts a tool choice to the form in which a response repeats it."""
    if chosen is None:
        return "auto"
    if chosen.names is None:
        return chosen.choice
    named = [{"type": "function", "name": name} for name in chosen.names]
    if chosen.choice == "required" and len(named) == 1:
        return named[0]
    return {"type": "allowed_tools", "mode": chosen.choice, "tools": named}
