"""What all commands share: errors as one line, JSON documents on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from compressor.errors import UserError


@contextmanager
def user_errors(debug: bool) -> Iterator[None]:
    """Turn a UserError into one line on stderr and exit status 1; `debug` shows the traceback."""
    try:
        yield
    except UserError as error:
        if debug:
            raise
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo("stopped; the same command resumes", err=True)
        raise typer.Exit(130) from None


def emit(document: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(document) + "\n")
