"""`lathe serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve(
    out: Annotated[Path, typer.Argument(help="Output directory of `lathe compress`, or a dense checkpoint.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free port.")] = 8000,
    engine: Annotated[str, typer.Option(help="What computes.")] = "onnx",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the engine.")] = None,
    max_batch: Annotated[int, typer.Option(min=1, max=1024, help="Sequences computed together.")] = 8,
    max_length: Annotated[
        int | None, typer.Option(min=2, help="Longest sequence in tokens; the model's own by default.")
    ] = None,
    max_queue: Annotated[
        int, typer.Option(min=0, help="Sequences that may wait; more are answered with 429.")
    ] = 64,
    served_model_name: Annotated[
        str | None, typer.Option(help="Name that clients ask for; the directory's by default.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="LATHE_API_KEY", help="Key that clients must send.")
    ] = None,
    drain_timeout: Annotated[
        float, typer.Option(min=0, help="Seconds that running answers get to finish on SIGTERM.")
    ] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line when ready.")] = False,
) -> None:
    """Serve a model over an OpenAI-compatible API with Prometheus metrics."""
    import asyncio
    import json
    import logging

    from serving.api.service import Service
    from serving.artefact import open_artefact
    from serving.engines.base import EngineOptions, open_backend
    from serving.metrics import Metrics
    from serving.server import Server, listen, url_of
    from serving.tokenizer import Tokenizer

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    artefact = open_artefact(out)
    name = served_model_name or artefact.name
    metrics = Metrics(name, artefact.target_ms)
    options = EngineOptions(
        observer=metrics, max_batch=max_batch, max_queue=max_queue, max_length=max_length, threads=threads
    )
    with listen(host, port) as listener:
        tokenizer = Tokenizer(artefact.path)
        backend = open_backend(engine, artefact, tokenizer, options)
        metrics.watch(backend, artefact, engine)

        def announce() -> None:
            event = {"event": "ready", "url": url_of(listener), "model": name}
            typer.echo(json.dumps(event) if as_json else f"ready: {name} at {event['url']}/v1")

        service = Service(name, backend, tokenizer, artefact, metrics)
        server = Server(service, api_key=api_key, drain_timeout=drain_timeout)
        asyncio.run(server.run_on(listener, announce))
