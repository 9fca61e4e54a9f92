"""The engines that serve a model, by name.

An engine is one module `serving/launch/engines/<name>.py` which registers under <name> how a model is served
with it. `serve_locally` serves with our own server: it needs a function that opens a `ServingBackend`, serves
the ONNX export only, and refuses `--draft` and arguments after `--`. An engine that reads something else, or
brings its own server along, does all of it itself, as the one for vLLM does. Another distribution adds an
engine by an entry point of `lathe.engines`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lathe.artefact.registry import LazyRegistry
from lathe.serving.http.cors import check_origins
from lathe.serving.options import ServeOptions

Serve = Callable[[Path, ServeOptions], None]
"""Serves a model directory until it is told to stop.

Raises:
    UserError: the model cannot be served so.
"""

engines: LazyRegistry[Serve] = LazyRegistry(
    "engine", "lathe.serving.launch.engines", "lathe.engines", lambda _name, value: callable(value)
)
"""Every engine by the name that `--engine` takes."""


def serve_with(name: str, model: Path, options: ServeOptions) -> None:
    """Serves a model until told to stop.

    Args:
        name: the engine's.
        model: the directory of an artefact or of a dense checkpoint.
        options: where and how it is served.

    Raises:
        UserError: there is no such engine, or the model cannot be served with it.
    """
    serve = engines.get(name)
    check_origins(options.allowed_origins)
    serve(model, options)
