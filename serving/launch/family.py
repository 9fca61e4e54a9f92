"""Serves a family: every subnet as a model of its own, and one name for whichever is chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from lathe.artefact.errors import UserError
from lathe.artefact.family import Family, read_family
from lathe.artefact.manifest import listed_files
from lathe.artefact.onnx.weight_sharing import weight_sharing
from lathe.artefact.router import has_router
from lathe.serving.api.service import Service
from lathe.serving.backend import Observer, ServingBackend
from lathe.serving.decoding.generation_defaults import sampling_defaults
from lathe.serving.decoding.tokenizer import Tokenizer
from lathe.serving.http.socket import listen
from lathe.serving.launch.local import check_options, open_tokenizer, run_until_stopped
from lathe.serving.metrics.exposition import Exposition
from lathe.serving.metrics.registry import Metrics
from lathe.serving.metrics.switching import tell_weights
from lathe.serving.options import REQUEST_TIMEOUT_S, ServeOptions
from lathe.serving.scheduler.subnets import SubnetsBackend
from lathe.serving.served_model import ServedModel, open_served_model
from lathe.serving.switching.chooser import Chooser, choosers
from lathe.serving.switching.choosers.domain import NAME as DOMAIN
from lathe.serving.switching.choosers.widest import NAME as WIDEST

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")

OpenSubnets = Callable[
    [Mapping[str, ServedModel], Tokenizer, ServeOptions, Mapping[str, Observer]], Mapping[str, ServingBackend]
]
"""Loads the engines of a family, by the names of the plans; each observer is told about its sequences."""


def serve_family(engine: str, open_subnets: OpenSubnets, path: Path, options: ServeOptions) -> None:
    """Serves all subnets of a family until told to stop.

    Args:
        engine: its name, for metrics and messages.
        open_subnets: loads the engines.
        path: the family's directory.
        options: where and how.

    Raises:
        UserError: the family, one of its subnets, the options or the address cannot be served.
    """
    check_options(engine, options)
    family = read_family(path)
    chooser = choosers.get(options.switch or default_chooser(family))(family, options)
    artefacts = {plan.name: open_served_model(family.directory(plan)) for plan in family.plans}
    check_alike(artefacts)
    with listen(options.host, options.port) as listener:
        try:
            service = family_service(engine, open_subnets, family, artefacts, chooser, options)
            run_until_stopped(service, options, listener)
        finally:
            chooser.close()


def default_chooser(family: Family) -> str:
    """Returns the name of the chooser where none is asked for."""
    return DOMAIN if has_router(family) else WIDEST


def check_alike(artefacts: Mapping[str, ServedModel]) -> None:
    """Checks that subnets read and write the same tokens, which their requests, caches and grammars share.

    Raises:
        UserError: they do not; names two of them.
    """
    first, *others = artefacts.values()
    files = listed_files(first.path)
    for other in others:
        theirs = listed_files(other.path)
        differing = [
            name for name in ("vocab_size", "eos", "context") if getattr(first, name) != getattr(other, name)
        ]
        differing += [name for name in TOKENIZER_FILES if files.get(name) != theirs.get(name)]
        if differing:
            raise UserError(
                f"{first.path} and {other.path} differ in {differing[0]}, so they are no family",
                "Serve them one by one.",
            )


def family_service(
    engine: str,
    open_subnets: OpenSubnets,
    family: Family,
    artefacts: Mapping[str, ServedModel],
    chooser: Chooser,
    options: ServeOptions,
) -> Service:
    """Opens all engines and describes what they serve.

    Raises:
        UserError: one of them cannot be opened, or the tokenizer not be read.
    """
    first, widest = next(iter(artefacts.items()))
    name, *aliases = options.served_model_names or (family.path.resolve().name,)
    exposition = Exposition([artefact.target for artefact in artefacts.values()], options.metrics_alias)
    metrics = {
        subnet: Metrics(f"{name}:{subnet}", artefact.target_ms, artefact.target_metric, exposition)
        for subnet, artefact in artefacts.items()
    }
    tokenizer = open_tokenizer(widest, options)
    observers = {subnet: chooser.observer(subnet, one) for subnet, one in metrics.items()}
    backends = open_subnets(artefacts, tokenizer, options, observers)
    for subnet, one in metrics.items():
        one.watch(backends[subnet], artefacts[subnet], engine)
    graphs = {subnet: artefact.graph for subnet, artefact in artefacts.items()}
    tell_weights(exposition, name, *weight_sharing(graphs))
    backend = SubnetsBackend(backends)
    metrics[first].watch_process(backend, name)
    if collector := chooser.collector(name):
        exposition.registry.register(collector)
    service = Service(
        name,
        backend,
        tokenizer,
        widest,
        metrics[first],
        options.request_timeout or REQUEST_TIMEOUT_S,
        tuple(aliases),
        sampling_defaults(widest.path, options.generation_config),
    )
    service.subnets = {
        subnet: service.view(f"{name}:{subnet}", artefact, metrics[subnet])
        for subnet, artefact in artefacts.items()
    }
    service.chooser = chooser
    chooser.watch(backends)
    return service
