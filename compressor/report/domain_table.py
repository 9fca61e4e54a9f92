"""The tables of a family of domains that the terminal shows: losses, and where the router sends prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def print_domains(family: Mapping[str, Any], console: Console) -> None:
    """Prints what `family.json` says of the domains; nothing where there are none."""
    facts = family.get("domains")
    if not facts:
        return
    console.print(_losses(facts["loss"]))
    console.print(_confusion(facts["routing"]["confusion"]))
    for line in (_routing(family["router"], facts["routing"]), _shared(facts["shared"])):
        console.print(line, highlight=False)


def _losses(losses: Mapping[str, Mapping[str, float]]) -> Table:
    dense = losses["dense"]
    title = "held-out loss of dense and what subnets lose over it (nats/token), by the domain of the text"
    table = Table("", *dense, title=title, title_justify="left")
    table.add_row("dense", *(f"{loss:.4f}" for loss in dense.values()))
    for name, row in losses.items():
        if name != "dense":
            table.add_row(name, *(f"{loss - dense[domain]:+.4f}" for domain, loss in row.items()))
    return table


def _confusion(confusion: Mapping[str, Mapping[str, int]]) -> Table:
    columns = next(iter(confusion.values()))
    table = Table("held-out excerpts of", *columns, title="where the router sends them", title_justify="left")
    for name, row in confusion.items():
        table.add_row(name, *map(str, row.values()))
    return table


def _routing(router: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    loss = found["loss"]
    needs = ", ".join(
        f"{name} from a probability of {threshold:.2f}" if threshold <= 1 else f"{name} never"
        for name, threshold in zip(router["plans"], router["thresholds"], strict=True)
    )
    over = {name: loss[name] - loss["dense"] for name in ("automatic", "oracle", "general")}
    return (
        f"router: {found['accuracy']:.1%} right, {found['microseconds']:.0f} us a prompt; to "
        f"{needs}, else to {router['fallback']}. Mean loss over dense: automatic "
        f"{over['automatic']:.4f}, oracle {over['oracle']:.4f}, general {over['general']:.4f}"
    )


def _shared(shared: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns what the subnets of all domains keep in common."""
    parts = [
        f"{found['core']:,} of {min(found['kept'].values()):,} to {max(found['kept'].values()):,} "
        f"{name.replace('_', ' ')}"
        for name, found in shared.items()
    ]
    return f"kept by the subnets of all domains: {', '.join(parts)}"
