"""`lathe serve`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from lathe.artefact.command_options import takes
from lathe.artefact.errors import UserError
from lathe.serving.options import ServeOptions


@takes(ServeOptions)
def serve(
    options: ServeOptions,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line when ready.")] = False,
) -> None:
    """Serve a model over an OpenAI-compatible API with Prometheus metrics.

    \b
    lathe serve out
    lathe serve out --compare http://127.0.0.1:8001
    lathe serve out --engine vllm -- --tensor-parallel-size 2
    lathe serve ./my-llama --engine vllm --draft out
    lathe serve --config serve.yaml   # serve.yaml: {out: out, port: 8001, max-batch: 4}
    """
    import json
    import logging
    import signal

    from lathe.serving.launch.registry import serve_with

    # The first process of a container ignores SIGTERM until somebody handles it, and loading takes a while.
    signal.signal(signal.SIGTERM, _leave)

    def announce(url: str, model: str) -> None:
        event = {"event": "ready", "url": url, "model": model}
        page = f", playground at {url}/" if options.playground else ""
        typer.echo(json.dumps(event) if as_json else f"ready: {model} at {url}/v1{page}")

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    key = _key(options.api_key, options.api_key_file)
    serve_with(options.engine, options.out, replace(options, api_key=key, announce=announce))


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _key(key: str | None, file: Path | None) -> str | None:
    """Returns the API key that clients must send.

    Raises:
        UserError: both are given, or one of them is empty: no server is open by mistake.
    """
    if file is None:
        given = os.environ.get("LATHE_API_KEY") if key is None else key
        if given is not None and not given.strip():
            raise UserError("the API key is empty", "Give one, or neither --api-key nor $LATHE_API_KEY.")
        if os.environ.get("LATHE_API_KEY_FILE") == "":
            raise UserError("$LATHE_API_KEY_FILE names no file", "Name one, or do not set it.")
        return key
    if key is not None:
        raise UserError("both an API key and a file with one are given", "Give one of them.")
    try:
        found = file.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the API key in {file}: {error}") from None
    if not found:
        raise UserError(f"{file} holds no API key", "Put the key on its first line.")
    return found
