"""Serves with our own server: puts the artefact, its tokenizer and a backend together."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from pathlib import Path

from lathe.artefact.errors import UserError
from lathe.serving.api.service import Service
from lathe.serving.backend import Observer, ServingBackend
from lathe.serving.decoding.generation_defaults import sampling_defaults
from lathe.serving.decoding.tokenizer import Tokenizer
from lathe.serving.http.socket import listen, url_of
from lathe.serving.launch.server import Server
from lathe.serving.metrics.exposition import Exposition
from lathe.serving.metrics.registry import Metrics
from lathe.serving.options import KEEP_ALIVE_S, REQUEST_TIMEOUT_S, WRITE_TIMEOUT_S, ServeOptions
from lathe.serving.playground.pages import Playground, Setup
from lathe.serving.playground.upstream import Upstream, check_compare
from lathe.serving.served_model import ServedModel, open_served_model

log = logging.getLogger("lathe.serving")

OpenBackend = Callable[[ServedModel, Tokenizer, ServeOptions, Observer], ServingBackend]
"""Loads an engine; the observer is told about every sequence."""
OpenModel = Callable[[Path], ServedModel]
"""Verifies and describes a model."""


def serve_locally(
    engine: str,
    open_backend: OpenBackend,
    model: Path,
    options: ServeOptions,
    open_model: OpenModel = open_served_model,
) -> None:
    """Serves `model` until told to stop; takes no draft model and no arguments for vLLM.

    Args:
        engine: its name, for metrics and messages.
        open_backend: loads it.
        model: what is served.
        options: where and how.
        open_model: verifies and describes the model; by default what serving its ONNX export reads.

    Raises:
        UserError: the model, the options or the address cannot be served.
    """
    check_options(engine, options)
    for option in ("switch", "slo"):
        if getattr(options, option) is not None:
            raise UserError(
                f"{model} is one model, and --{option} is for a family of subnets",
                "Compress for several targets, such as --target-speedup 1.2x,1.5x,2x.",
            )
    artefact = open_model(model)
    name, *aliases = options.served_model_names or (artefact.name,)
    exposition = Exposition([artefact.target], options.metrics_alias)
    metrics = Metrics(name, artefact.target_ms, artefact.target_metric, exposition)
    with listen(options.host, options.port) as listener:
        tokenizer = open_tokenizer(artefact, options)
        backend = open_backend(artefact, tokenizer, options, metrics)
        metrics.watch(backend, artefact, engine)
        metrics.watch_process(backend)
        service = Service(
            name,
            backend,
            tokenizer,
            artefact,
            metrics,
            options.request_timeout or REQUEST_TIMEOUT_S,
            tuple(aliases),
            sampling_defaults(artefact.path, options.generation_config),
        )
        run_until_stopped(service, options, listener)


def check_options(engine: str, options: ServeOptions) -> None:
    """Checks the options that our own server does not have.

    Raises:
        UserError: one of them is given, or --compare names no server.
    """
    if options.draft or options.engine_args:
        given = "--draft" if options.draft else " ".join(options.engine_args)
        raise UserError(f"the {engine} engine does not take {given}", "It is for --engine vllm.")
    check_compare(options)


def open_tokenizer(artefact: ServedModel, options: ServeOptions) -> Tokenizer:
    """Loads the tokenizer of a model, and says what is odd about it.

    Raises:
        UserError: it cannot be read.
    """
    tokenizer = Tokenizer(artefact.path, options.template_variables)
    if warning := tokenizer.warning(artefact.vocab_size):
        log.warning(warning)
    return tokenizer


def run_until_stopped(service: Service, options: ServeOptions, listener: socket.socket) -> None:
    """Serves on a socket; announces that it is ready once it has generated.

    Raises:
        UserError: the model loads but does not generate.
    """
    server = Server(
        service,
        api_key=options.api_key,
        allowed_origins=options.allowed_origins,
        playground=_playground(service, options) if options.playground else None,
        drain_timeout=options.drain_timeout,
        write_timeout=options.write_timeout or WRITE_TIMEOUT_S,
        keep_alive=options.keep_alive or KEEP_ALIVE_S,
    )
    asyncio.run(server.run_on(listener, lambda: options.announce(url_of(listener), service.name)))


def _playground(service: Service, options: ServeOptions) -> Playground:
    setup = Setup(
        model=service.name,
        chat=service.tokenizer.has_chat_template,
        target_ms=service.artefact.tpot_target_ms,
        context=service.backend.max_length,
        compare=options.compare is not None,
    )
    return Playground(setup, Upstream(options.compare, options.compare_api_key) if options.compare else None)
