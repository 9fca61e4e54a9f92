"""The page of a search for the most load within an SLO."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lathe.serving.loadtest.capacity_report import answers, level_rows, notes, title, unit
from lathe.serving.loadtest.page.svg import Plot
from lathe.serving.loadtest.page.table import paragraphs, table


def body(whole: Mapping[str, Any]) -> list[str | Plot]:
    """Returns the answer, plots of how the SLO was kept at every level, and the levels as tables."""
    settings = whole["settings"]
    limits = [name for name in settings["slo"] if name != "share"]
    parts: list[str | Plot] = [
        paragraphs([title(settings)], "soft"),
        paragraphs(answers(whole), "answer"),
        paragraphs(notes(whole)),
        "<h2>Level by level</h2>",
        _within(whole),
        *(_latency(whole, limit) for limit in limits),
        _throughput(whole),
    ]
    for name, system in whole["systems"].items():
        head, *rows = level_rows(system, settings)
        parts += [table(head, rows, name)]
    return parts


def _last_tries(system: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Returns each level once; one that was tried again with its last result."""
    return list({level["level"]: level for level in system["levels"]}.values())


def _within(whole: Mapping[str, Any]) -> Plot:
    settings = whole["settings"]
    told = [
        f"{name}: " + ", ".join(f"{v['within']:.0%} at {v['level']:g}" for v in _last_tries(system))
        for name, system in whole["systems"].items()
    ]
    text = f"{'. '.join(told)}. Asked for: {settings['slo']['share']:.0%}"
    plot = Plot("Requests within the SLO, with the interval of 95 %", text, unit(settings), "%", top=100)
    plot.limit(100 * settings["slo"]["share"])
    for index, system in enumerate(whole["systems"].values()):
        levels = _last_tries(system)
        plot.bars(index, [(v["level"], *(100 * bound for bound in v["interval"])) for v in levels])
        plot.curve(index, [(v["level"], 100 * v["within"]) for v in levels])
    return plot


def _latency(whole: Mapping[str, Any], name: str) -> Plot:
    """Plots p95 of a limited latency; far beyond the limit it stays on the upper edge."""
    limit, label = whole["settings"]["slo"][name], name.removesuffix("_ms").upper()
    points = {
        system: [(v["level"], v[name]["p95"]) for v in _last_tries(found) if v[name]]
        for system, found in whole["systems"].items()
    }
    told = [f"{s}: " + ", ".join(f"{y:.1f} ms at {x:g}" for x, y in p) for s, p in points.items()]
    text = f"{'. '.join(told)}. Limit: {limit:g} ms"
    plot = Plot(f"{label}, p95, and its limit", text, unit(whole["settings"]), "ms", top=2 * limit)
    plot.limit(limit)
    for index, series in enumerate(points.values()):
        plot.curve(index, series)
    return plot


def _throughput(whole: Mapping[str, Any]) -> Plot:
    points = {
        name: [(v["level"], v["output_tokens_per_second"]) for v in _last_tries(system)]
        for name, system in whole["systems"].items()
    }
    told = [f"{s}: " + ", ".join(f"{y:.0f} at {x:g}" for x, y in p) for s, p in points.items()]
    plot = Plot("Output tokens per second", ". ".join(told), unit(whole["settings"]), "tokens/s")
    for index, series in enumerate(points.values()):
        plot.curve(index, series)
    return plot
