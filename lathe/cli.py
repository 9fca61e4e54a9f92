"""The console commands: `lathe COMMAND` and `compress`, which is `lathe compress`."""

from __future__ import annotations

import os
import warnings
from importlib import import_module

import typer

from lathe.compressor.cli.common import guarded

COMMANDS = {
    "compress": "lathe.compressor.cli.compress",
    "plan": "lathe.compressor.cli.plan",
    "profile": "lathe.compressor.cli.profile",
    "export": "lathe.compressor.cli.export",
    "evaluate": "lathe.compressor.cli.evaluate",
    "inspect": "lathe.compressor.cli.inspect",
    "refresh": "lathe.compressor.cli.refresh",
    "families": "lathe.compressor.cli.families",
    "serve": "lathe.serving.cli.serve",
    "loadtest": "lathe.serving.cli.loadtest",
}


def build() -> typer.Typer:
    """The umbrella application, one module per command."""
    app = typer.Typer(
        name="lathe",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
        help="One latency target in, a smaller model that meets it out, and a server that proves it.",
    )
    for name, module in COMMANDS.items():
        app.command(name)(guarded(getattr(import_module(module), name)))
    return app


def lathe() -> None:
    _quieten()
    build()()


def compress() -> None:
    _quieten()
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(guarded(import_module(COMMANDS["compress"]).compress))
    app()


def _quieten() -> None:
    """Libraries' own bars and chatter would break up our progress lines."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    warnings.filterwarnings("ignore", module="torch|transformers|vllm")


if __name__ == "__main__":
    lathe()
