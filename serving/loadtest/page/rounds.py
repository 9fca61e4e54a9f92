"""The page of a load test in rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lathe.serving.loadtest.measure import percentile
from lathe.serving.loadtest.page.svg import Plot
from lathe.serving.loadtest.page.table import paragraphs, table
from lathe.serving.loadtest.report import notes, summary_rows, title

SHARES = range(0, 101)
Samples = Sequence[Mapping[str, Any]]


def _tpot_ms(sample: Mapping[str, Any]) -> float | None:
    if sample["output_tokens"] < 2:
        return None
    chunks: Sequence[float] = sample["chunks_ms"]
    return (chunks[-1] - chunks[0]) / (sample["output_tokens"] - 1)


LATENCIES: dict[str, tuple[str, Callable[[Mapping[str, Any]], float | None]]] = {
    "TTFT": ("time to first token", lambda sample: float(sample["chunks_ms"][0])),
    "TPOT": ("time per output token after the first", _tpot_ms),
    "E2E": ("end to end", lambda sample: float(sample["chunks_ms"][-1])),
}


def body(whole: Mapping[str, Any]) -> list[str | Plot]:
    """Returns the numbers, each latency's distribution, the rounds, and latencies over time."""
    head, *rows = summary_rows(whole)
    parts: list[str | Plot] = [
        paragraphs([title(whole)], "soft"),
        table(head, rows),
        paragraphs(notes(whole)),
        "<h2>Share of the requests that took no longer</h2>",
        *(plot for name in LATENCIES if (plot := _shares(whole, name))),
        "<h2>Round by round</h2>",
        _throughput(whole),
    ]
    if not {"rate", "trace", "ramp_to"}.isdisjoint(whole["settings"]):
        parts += [
            "<h2>In the course of a round</h2>",
            _times_of_a_round(whole, "TTFT"),
            _times_of_a_round(whole, "TPOT"),
        ]
    return [*parts, "<h2>Every latency</h2>", _percentiles(whole)]


def _good(system: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [sample for one in system["rounds"] for sample in one["samples"] if "error" not in sample]


def _shares(whole: Mapping[str, Any], name: str) -> Plot | None:
    """Plots the share of the requests that took at most so long; the slowest 1 % lie on the right edge."""
    label, measure = LATENCIES[name]
    values = {
        system: sorted(value for sample in _good(found) if (value := measure(sample)) is not None)
        for system, found in whole["systems"].items()
    }
    if not all(values.values()):
        return None
    told = [
        f"{system}: half within {percentile(v, 50):.1f} ms, 95 % within {percentile(v, 95):.1f} ms"
        for system, v in values.items()
    ]
    edge = max(percentile(ordered, 99) for ordered in values.values())
    plot = Plot(f"{name}: {label}", ". ".join(told), "ms", "% of the requests", right=edge, top=100)
    for index, ordered in enumerate(values.values()):
        plot.line(index, [(percentile(ordered, share), share) for share in SHARES])
    return plot


def _throughput(whole: Mapping[str, Any]) -> Plot:
    per_round = {
        name: [one["output_tokens_per_second"] for one in system["rounds"]]
        for name, system in whole["systems"].items()
    }
    told = [f"{name}: {', '.join(f'{v:.1f}' for v in values)}" for name, values in per_round.items()]
    plot = Plot("Output tokens per second", ". ".join(told), "round", "tokens/s")
    for index, values in enumerate(per_round.values()):
        plot.curve(index, list(enumerate(values, 1)))
    return plot


def _times_of_a_round(whole: Mapping[str, Any], name: str) -> Plot:
    label, measure = LATENCIES[name]
    text = f"One mark for each request, at the second of the round in which it was sent: its {label}"
    plot = Plot(f"{name} by the time sent", text, "seconds into the round", "ms")
    for index, system in enumerate(whole["systems"].values()):
        pairs = [(sample["sent_s"], measure(sample)) for sample in _good(system)]
        plot.marks(index, [(at, value) for at, value in pairs if value is not None])
    return plot


def _percentiles(whole: Mapping[str, Any]) -> str:
    rows = [
        (f"{label}, {name}", *(f"{found[p]:,.2f}" for p in ("p50", "p90", "p95", "p99", "mean", "max")))
        for label in ("TTFT", "TPOT", "ITL", "E2E")
        for name, system in whole["systems"].items()
        if (found := system[f"{label.lower()}_ms"])
    ]
    return table(["ms", "p50", "p90", "p95", "p99", "mean", "max"], rows)
