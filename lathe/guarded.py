"""How every command reports an error."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from lathe.artefact.errors import UserError

_SERVES_ONLY = "there is no PyTorch here, and without it Lathe only serves and load-tests. Run this elsewhere"
_DEBUG = Annotated[bool, typer.Option(help="Tracebacks instead of one-line errors.")]


def guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a command that prints an error as one line on stderr and exits with status 1.

    It has the option `--debug` for the traceback. Where PyTorch is missing, as in the image for CPUs, it
    says so.
    """

    @functools.wraps(command)
    def run(*args: Any, debug: bool = False, **options: Any) -> None:
        try:
            command(*args, **options)
        except (UserError, OSError, ModuleNotFoundError) as error:
            if debug or (sentence := _sentence(error)) is None:
                raise
            typer.echo(f"error: {sentence}", err=True)
            raise typer.Exit(1) from None

    signature = inspect.signature(command, eval_str=True)
    option = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_DEBUG)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), option])  # type: ignore[attr-defined]
    run.__annotations__ = {**{n: q.annotation for n, q in signature.parameters.items()}, "debug": _DEBUG}
    return run


def _sentence(error: Exception) -> str | None:
    """Returns an error in one sentence; None: it is a fault of Lathe."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        return _SERVES_ONLY if error.name == "torch" else None
    if isinstance(error, OSError) and error.strerror:
        place = f" ({error.filename})" if error.filename else ""
        return f"the system refused: {error.strerror}{place}"
    return None
