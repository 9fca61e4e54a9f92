"""The forms of tool calls that this server reads, each registered by its file in `serving/tools/formats`."""

from __future__ import annotations

from lathe.artefact.registry import Registry
from lathe.serving.tools.form import Form

forms: Registry[Form] = Registry(
    "form of tool calls",
    "lathe.serving.tools.formats",
    "lathe.tool_call_forms",
    lambda _name, value: isinstance(value, Form),
)


def register(form: Form) -> Form:
    """Add a form."""
    return forms.add(form.name, form)


def available_forms() -> list[Form]:
    """All of them, by name."""
    return [forms.get(name) for name in forms.known()]


def form_of(rendered: str) -> Form | None:
    """The form that a rendered chat, with tools and a call, is written in, if it is a known one."""
    return next((form for form in available_forms() if form.fits(rendered)), None)
