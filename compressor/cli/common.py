"""The parts that all commands share: the handling of errors, and JSON documents on stdout."""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from lathe.artefact.errors import UserError

_SERVES_ONLY = "there is no PyTorch here, and without it Lathe only serves and load-tests. Run this elsewhere"
_DEBUG = Annotated[bool, typer.Option(help="Tracebacks instead of one-line errors.")]


def guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a command that prints a UserError as one line on stderr and exits with status 1.

    The command has a `--debug` option for the traceback. A missing PyTorch, as in the image for CPUs, is
    treated in the same way.
    """

    @functools.wraps(command)
    def run(*args: Any, debug: bool = False, **options: Any) -> None:
        try:
            command(*args, **options)
        except UserError as error:
            if debug:
                raise
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from None
        except ModuleNotFoundError as error:
            if debug or error.name != "torch":
                raise
            typer.echo(f"error: {_SERVES_ONLY}", err=True)
            raise typer.Exit(1) from None
        except OSError as error:
            if debug or not error.strerror:
                raise
            place = f" ({error.filename})" if error.filename else ""
            typer.echo(f"error: the system refused: {error.strerror}{place}", err=True)
            raise typer.Exit(1) from None

    signature = inspect.signature(command, eval_str=True)
    option = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_DEBUG)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), option])  # type: ignore[attr-defined]
    run.__annotations__ = {**{n: q.annotation for n, q in signature.parameters.items()}, "debug": _DEBUG}
    return run


def emit(document: Any) -> None:
    """Writes one JSON document to stdout."""
    sys.stdout.write(json.dumps(document) + "\n")
