"""How a model is served with an engine, by the engine's name.

An engine is one module `serving/launch/engines/<name>.py` which registers under <name> how a model is served
with it: by our server (`serve_locally`, which needs no more than a `Backend`), or by one that the engine
brings along.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lathe.artefact.errors import UserError
from lathe.serving.http.cors import check_origins
from lathe.serving.options import ServeOptions

Serve = Callable[[Path, ServeOptions], None]
"""Serves a model directory until it is told to stop.

Raises:
    UserError: the model cannot be served so.
"""


_ENGINES = "lathe.serving.launch.engines"


@dataclass(slots=True)
class _Registry:
    functions: dict[str, Serve] = field(default_factory=dict)


_registry = _Registry()


def register(name: str) -> Callable[[Serve], Serve]:
    """Decorator: the function serves with the engine of this name."""

    def keep(function: Serve) -> Serve:
        _registry.functions[name] = function
        return function

    return keep


def available_engines() -> list[str]:
    """Names of the installed engines; imports none of them."""
    folder = importlib.import_module(_ENGINES).__path__
    return sorted(module.name for module in pkgutil.iter_modules(folder))


def serve_with(name: str, model: Path, options: ServeOptions) -> None:
    """Serve `model` until told to stop.

    Raises:
        UserError: there is no such engine, or the model cannot be served with it.
    """
    if name not in available_engines():
        raise UserError(f"there is no engine {name!r}", f"Engines: {', '.join(available_engines())}.")
    check_origins(options.allowed_origins)
    importlib.import_module(f"{_ENGINES}.{name}")
    _registry.functions[name](model, options)
