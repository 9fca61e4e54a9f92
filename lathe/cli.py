"""The console commands: `lathe COMMAND` and `compress`, which is `lathe compress`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

import typer

from lathe.artefact.errors import UserError
from lathe.guarded import guarded

COMMANDS = {
    "compress": "lathe.compressor.cli.compress",
    "plan": "lathe.compressor.cli.plan",
    "tune": "lathe.compressor.cli.tune",
    "profile": "lathe.compressor.cli.profile",
    "export": "lathe.compressor.cli.export",
    "evaluate": "lathe.compressor.cli.evaluate",
    "inspect": "lathe.compressor.cli.inspect",
    "refresh": "lathe.compressor.cli.refresh",
    "families": "lathe.compressor.cli.families",
    "serve": "lathe.serving.cli.serve",
    "loadtest": "lathe.serving.cli.loadtest",
}
_PACKAGES = ("lathe.compressor", "lathe.serving")


def build() -> typer.Typer:
    """Makes the umbrella application, one module per command."""
    app = typer.Typer(
        name="lathe",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
        help="One latency target in, a smaller model that meets it out, and a server that proves it.",
    )
    for name in COMMANDS:
        _add(app, name)
    return app


def lathe() -> None:
    """Runs `lathe`."""
    _quieten()
    build()()


def compress() -> None:
    """Runs `compress`."""
    _quieten()
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    _add(app, "compress", named=False)
    app()


def _add(app: typer.Typer, name: str, *, named: bool = True) -> None:
    """Adds a command; where its package is not installed, as in a server's image, one that says so."""
    settings: dict[str, Any] = {}
    try:
        command = getattr(import_module(COMMANDS[name]), name)
    except ModuleNotFoundError as error:
        if error.name not in _PACKAGES:
            raise
        command, settings = _absent(name), {"ignore_unknown_options": True, "allow_extra_args": True}
    app.command(name if named else None, context_settings=settings)(guarded(command))


def _absent(name: str) -> Callable[[typer.Context], None]:
    def refuse(_context: typer.Context) -> None:
        raise UserError(f"`{name}` is not in this installation of Lathe", "Run it where all of Lathe is.")

    refuse.__doc__ = "Not in this installation."
    return refuse


def _quieten() -> None:
    """Silences libraries' own progress bars and warnings, which would break up our progress lines."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    warnings.filterwarnings("ignore", module="torch|transformers|vllm")


if __name__ == "__main__":
    lathe()
