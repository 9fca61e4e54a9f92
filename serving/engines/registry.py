"""How a model is served with an engine, by the engine's name.

An engine is one package `serving/engines/<name>` whose module `engine` registers under <name> how a model is
served with it: by our server (`serving.local.serve_locally`, which needs no more than a `Backend`), or by one
that the engine brings along.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from compressor.errors import UserError
from serving.api.cors import check_origins
from serving.chat_template import Scalar


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What `lathe serve` was asked for; None stands for the engine's own choice; timeouts are in seconds.

    `playground`: whether there is a page at `/`; `compare`: another server's address, for that page.
    `draft`: a smaller model whose guesses the served one checks, `draft_tokens` at a time. `engine_args`:
    arguments for an engine that has a command line of its own. `generation_config`: whether the sampling
    that the model recommends is the default (auto) or not (none); `template_variables`: what the chat
    template is given unless a request says otherwise.
    """

    host: str
    port: int
    device: str | None
    threads: int | None
    max_batch: int | None
    max_length: int | None
    max_queue: int
    prefix_cache: int | None
    served_model_names: tuple[str, ...]
    """What clients may ask for; the first is reported. None given: the directory's name."""
    api_key: str | None
    allowed_origins: tuple[str, ...]
    drain_timeout: float
    request_timeout: float | None
    write_timeout: float | None
    metrics_alias: str | None
    playground: bool
    compare: str | None
    compare_api_key: str | None
    draft: Path | None
    draft_tokens: int
    engine_args: tuple[str, ...]
    generation_config: Literal["auto", "none"]
    template_variables: Mapping[str, Scalar]
    announce: Callable[[str, str], None]
    """Called with (URL, model) once a token has been generated."""
    keep_alive: int | None = None
    """Seconds for which a connection may wait for its next request."""


Serve = Callable[[Path, ServeOptions], None]
"""Serves a model directory until it is told to stop.

Raises:
    UserError: the model cannot be served so.
"""


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
    import serving.engines

    return sorted(module.name for module in pkgutil.iter_modules(serving.engines.__path__) if module.ispkg)


def serve_with(name: str, model: Path, options: ServeOptions) -> None:
    """Serve `model` until told to stop.

    Raises:
        UserError: there is no such engine, or the model cannot be served with it.
    """
    if name not in available_engines():
        raise UserError(f"there is no engine {name!r}", f"Engines: {', '.join(available_engines())}.")
    check_origins(options.allowed_origins)
    importlib.import_module(f"serving.engines.{name}.engine")
    _registry.functions[name](model, options)
