"""`lathe serve`."""

from __future__ import annotations

from dataclasses import replace
from types import FrameType
from typing import Annotated, NoReturn

import typer

from lathe.artefact.command_options import command_of
from lathe.serving.options import ServeOptions


@command_of(ServeOptions)
def serve(
    options: ServeOptions,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line when ready.")] = False,
) -> None:
    """Serve a model over an OpenAI-compatible API with Prometheus metrics.

    It is ready once it has generated a token, and says so. On SIGTERM, running answers get --drain-timeout
    seconds to finish.

    Examples:
      lathe serve out

      lathe serve out --compare http://127.0.0.1:8001

      lathe serve out --engine vllm -- --tensor-parallel-size 2

      lathe serve ./my-llama --engine vllm --draft out

      lathe serve --config serve.yaml   # serve.yaml: {out: out, port: 8001, max-batch: 4}
    """
    import json
    import logging
    import signal

    from lathe.serving.launch.api_key import read_api_key
    from lathe.serving.launch.registry import serve_with

    # The first process of a container ignores SIGTERM until somebody handles it, and loading takes a while.
    signal.signal(signal.SIGTERM, _leave)

    def announce(url: str, model: str) -> None:
        event = {"event": "ready", "url": url, "model": model}
        page = f", playground at {url}/" if options.playground else ""
        typer.echo(json.dumps(event) if as_json else f"ready: {model} at {url}/v1{page}")

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    key = read_api_key(options.api_key, options.api_key_file)
    serve_with(options.engine, options.out, replace(options, api_key=key, announce=announce))


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
