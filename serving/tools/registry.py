"""The forms of tool calls that this server reads, each registered by its file in `serving/tools/formats`."""

from __future__ import annotations

import importlib
import pkgutil

from lathe.serving.tools.form import Form

_forms: dict[str, Form] = {}


def register(form: Form) -> Form:
    """Add a form."""
    _forms[form.name] = form
    return form


def available_forms() -> list[Form]:
    """All of them, by name."""
    import lathe.serving.tools.formats as formats

    for module in pkgutil.iter_modules(formats.__path__):
        importlib.import_module(f"{formats.__name__}.{module.name}")
    return [_forms[name] for name in sorted(_forms)]


def form_of(rendered: str) -> Form | None:
    """The form that a rendered chat, with tools and a call, is written in, if it is a known one."""
    return next((form for form in available_forms() if form.fits(rendered)), None)
