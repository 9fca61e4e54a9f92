"""Tables for the terminal: of a tuning's space, and of what it found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def print_space(found: Mapping[str, Any], console: Console) -> None:
    """Prints what would be searched, and about how long that takes."""
    table = Table(title=f"{found['model']}: {found['points']:,} points", title_justify="left")
    for name in ("knob", "default", "values"):
        table.add_column(name)
    for name, values in found["space"].items():
        table.add_row(name, found["default"][name], ", ".join(map(str, values)))
    console.print(table)
    console.print(
        f"{found['trials']} trials of {found['sampler']}: roughly {_time(found['seconds'])}, besides what is "
        "measured",
        highlight=False,
    )


def print_tuning(found: Mapping[str, Any], console: Console) -> None:
    """Prints the best trial beside the default, and how much that says."""
    table = Table(title=f"{found['model']}: {len(found['trials'])} trials", title_justify="left")
    for name in ("", "default", "best"):
        table.add_column(name, justify="right" if name else "left")
    default, best = found["default"], found["best"]
    for name in found["space"]:
        importance = "" if found["importance"] is None else f" ({found['importance'][name]:.0%})"
        table.add_row(name + importance, default["values"][name], best["values"][name])
    table.add_row("loss over dense", f"{default['loss_increase']:.4f}", f"{best['loss_increase']:.4f}")
    table.add_row("perplexity", f"{default['perplexity']:.2f}", f"{best['perplexity']:.2f}")
    console.print(table)
    for line in (_counts(found), _spread(found), verdict(found)):
        console.print(line, highlight=False)


def verdict(found: Mapping[str, Any]) -> str:
    """Returns a sentence: whether tuning gained anything."""
    gain, best = found["gain"], found["best"]
    if best["number"] == 0:
        return "the default is the best trial"
    if gain["confirmed"] is None:
        return f"the best trial gains {gain['chosen']:.4f} nats per token (--confirm tells that from noise)"
    what = "within noise of the default" if gain["within_noise"] else "a gain over the default"
    return (
        f"{what}: with {gain['seeds']} other seeds the best gains {gain['confirmed']:.4f} nats per token; "
        f"seeds alone change the default by {gain['noise']:.4f}"
    )


def _counts(found: Mapping[str, Any]) -> str:
    states = [row["state"] for row in found["trials"]]
    counts = ", ".join(
        f"{states.count(state)} {state}" for state in ("complete", "dropped", "failed") if state in states
    )
    return f"{counts}, in {_time(found['seconds'])}"


def _spread(found: Mapping[str, Any]) -> str:
    spread = found["spread"]
    share = "" if spread["share"] is None else f" ({spread['share']:.1%} of the best)"
    return f"the best {spread['trials']} lie within {spread['nats']:.4f} nats per token{share}"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
