"""Serving with our own server: the artefact, its tokenizer and a backend put together."""

from __future__ import annotations

import asyncio
from pathlib import Path

from compressor.errors import UserError
from serving.api.service import Service
from serving.artefact import open_artefact
from serving.engines.base import EngineOptions, OpenBackend, ServeOptions
from serving.metrics import Metrics
from serving.protocol import WRITE_TIMEOUT_S
from serving.server import Server, listen, url_of
from serving.tokenizer import Tokenizer

MAX_BATCH = 8
REQUEST_TIMEOUT_S = 600.0


def serve_locally(engine: str, open_backend: OpenBackend, model: Path, options: ServeOptions) -> None:
    """Serve the ONNX export of `model` until told to stop.

    Raises:
        UserError: the model, the options or the address cannot be served.
    """
    if options.draft or options.engine_args:
        given = "--draft" if options.draft else " ".join(options.engine_args)
        raise UserError(f"the {engine} engine does not take {given}", "It is for --engine vllm.")
    artefact = open_artefact(model)
    name, *aliases = options.served_model_names or (artefact.name,)
    metrics = Metrics(name, artefact.target_ms, options.metrics_alias)
    sizes = EngineOptions(
        observer=metrics,
        max_batch=options.max_batch or MAX_BATCH,
        max_queue=options.max_queue,
        max_length=options.max_length,
        threads=options.threads,
        device=options.device,
    )
    with listen(options.host, options.port) as listener:
        tokenizer = Tokenizer(artefact.path)
        backend = open_backend(artefact, tokenizer, sizes)
        metrics.watch(backend, artefact, engine)
        limit = options.request_timeout or REQUEST_TIMEOUT_S
        service = Service(name, backend, tokenizer, artefact, metrics, limit, aliases=tuple(aliases))
        server = Server(
            service,
            api_key=options.api_key,
            allowed_origins=options.allowed_origins,
            drain_timeout=options.drain_timeout,
            write_timeout=options.write_timeout or WRITE_TIMEOUT_S,
        )
        asyncio.run(server.run_on(listener, lambda: options.announce(url_of(listener), name)))
