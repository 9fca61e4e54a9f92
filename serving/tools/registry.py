"""The known formats of tool calls, each registered by its file in `serving/tools/formats`."""

from __future__ import annotations

from lathe.artefact.registry import Registry
from lathe.serving.tools.call_format import ToolCallFormat

formats: Registry[ToolCallFormat] = Registry(
    "form of tool calls",
    "lathe.serving.tools.formats",
    "lathe.tool_call_formats",
    lambda _name, value: isinstance(value, ToolCallFormat),
)


def register(call_format: ToolCallFormat) -> ToolCallFormat:
    """Adds a format."""
    return formats.add(call_format.name, call_format)


def available_formats() -> list[ToolCallFormat]:
    """Returns all formats, by name."""
    return [formats.get(name) for name in formats.known()]


def format_of(rendered: str) -> ToolCallFormat | None:
    """Returns the format that a rendered chat, with tools and a call, is written in, if it is known."""
    return next((call_format for call_format in available_formats() if call_format.fits(rendered)), None)
