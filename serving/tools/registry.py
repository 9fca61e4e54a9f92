"""The forms of tool calls that this server knows, each registered by its file in `serving/tools/formats`."""

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
    """Adds a form."""
    return forms.add(form.name, form)


def available_forms() -> list[Form]:
    """Returns all forms, by name."""
    return [forms.get(name) for name in forms.known()]


def form_of(rendered: str) -> Form | None:
    """Returns the form that a rendered chat, with tools and a call, is written in, if it is known."""
    return next((form for form in available_forms() if form.fits(rendered)), None)
