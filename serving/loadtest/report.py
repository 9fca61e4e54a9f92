"""The terminal report: systems side by side, and the definitions of the words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

ROWS = (
    ("output tokens/s", "output_tokens_per_second"),
    ("requests/s", "requests_per_second"),
    ("TTFT p50", "ttft_ms.p50"),
    ("TTFT p95", "ttft_ms.p95"),
    ("TTFO p50", "ttfo_ms.p50"),
    ("TTFO p95", "ttfo_ms.p95"),
    ("TPOT p50", "tpot_ms.p50"),
    ("TPOT p95", "tpot_ms.p95"),
    ("E2E p50", "e2e_ms.p50"),
    ("E2E p95", "e2e_ms.p95"),
    ("peak RSS", "peak_rss_bytes"),
    ("weights", "model_weight_bytes"),
    ("GPU memory", "gpu_memory_used_bytes"),
)
BUSY_CLIENT = 0.7


def failures(whole: Mapping[str, Any]) -> str | None:
    """Returns a sentence about failed requests; None if every request succeeded."""
    parts = []
    for name, system in whole["systems"].items():
        if system["failed"]:
            kinds = ", ".join(f"{count} {kind}" for kind, count in system["errors"].items())
            parts.append(f"{name}: {system['failed']} of {system['requests']} requests failed ({kinds})")
    return "; ".join(parts) or None


def rendered(whole: Mapping[str, Any]) -> RenderableType:
    """Returns the table, the definitions of its words, and what to know before believing it."""
    parts: list[RenderableType] = [Text(title(whole)), _table(whole), _definitions(whole)]
    parts += [Text(note, style="yellow") for note in notes(whole)]
    return Group(*parts)


def print_report(whole: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints the report on stdout, or on `console`."""
    (console or Console()).print(rendered(whole))


def summary_rows(whole: Mapping[str, Any]) -> list[list[str]]:
    """Returns the head and the rows of the table: the figures of each system, and their ratio."""
    systems, ratios = whole["systems"], whole.get("ratios")
    rows = [["", *systems, *(["subnet / dense"] if ratios is not None else [])]]
    for label, path in ROWS:
        values = [_value(system, path) for system in systems.values()]
        if any(value is not None for value in values):
            cells = [_cell(path, value) for value in values]
            rows.append([label, *cells, *([_ratio(ratios.get(path))] if ratios is not None else [])])
    errors = [f"{system['failed']} of {system['requests']}" for system in systems.values()]
    rows.append(["errors", *errors, *([""] if ratios is not None else [])])
    if "slo" in whole["settings"]:
        kept = [f"{system['slo']['within']:.1%}" for system in systems.values()]
        rows.append(["within limits", *kept, *([""] if ratios is not None else [])])
    return rows


def _table(whole: Mapping[str, Any]) -> Table:
    return filled(Table(), summary_rows(whole))


def filled(table: Table, rows: Sequence[Sequence[str]], *, no_wrap: bool = False) -> Table:
    """Fills a table with these rows, the head first; all columns but the first are numbers."""
    head, *rest = rows
    for index, name in enumerate(head):
        table.add_column(name, justify="right" if index else "left", no_wrap=no_wrap)
    for row in rest:
        table.add_row(*row)
    return table


def title(whole: Mapping[str, Any]) -> str:
    """Returns what was sent, in words."""
    first = next(iter(whole["systems"].values()))
    parts = [pattern(whole["settings"])]
    if first["succeeded"]:
        prompt, answer = (first[key] / first["succeeded"] for key in ("prompt_tokens", "asked_tokens"))
        parts.append(f"prompts of {prompt:.0f} tokens, {answer:.0f} output tokens")
    return ", ".join([*parts, f"{whole['settings']['rounds']} round(s)"])


def pattern(settings: Mapping[str, Any]) -> str:
    """Returns how the requests of a round arrive, in words."""
    ramp = f" to {settings['ramp_to']:g}" if "ramp_to" in settings else ""
    if "trace" in settings:
        return f"replay of {settings['trace']['file']}"
    if "rate" in settings:
        return f"{settings['rate']:g}{ramp} requests/s ({settings['arrival']})"
    return f"{settings['concurrency']}{ramp} in flight"


def _definitions(whole: Mapping[str, Any]) -> Text:
    text = whole["definitions"]
    reasons = any(system["ttfo_ms"] for system in whole["systems"].values())
    names = ("ttft_ms", *(("ttfo_ms",) if reasons else ()), "tpot_ms", "e2e_ms")
    lines = [f"{name[:-3].upper()} = {text[name]}" for name in names]
    lines += [f"output tokens/s = {text['output_tokens_per_second']}", f"errors = {text['errors']}"]
    if any("peak_rss_bytes" in system["memory"] for system in whole["systems"].values()):
        lines.append(f"peak RSS = {text['peak_rss_bytes']}")
    if "ratios" in whole:
        lines.append(f"subnet / dense = {text['ratios'].partition(': ')[0]}: median (lowest to highest)")
    return Text("\n".join(lines), style="dim")


def notes(whole: Mapping[str, Any]) -> list[str]:
    """Returns what a reader of the numbers has to know."""
    found = []
    for name, system in whole["systems"].items():
        found += [f"{name}: {remark}" for remark in system["remarks"]]
        if system["untimed"]:
            found.append(f"{name}: {untimed_note(system)}")
        if system["output_tokens"] != system["asked_tokens"]:
            mean, asked = (system[key] / system["succeeded"] for key in ("output_tokens", "asked_tokens"))
            found.append(f"{name}: answers have {mean:.1f} tokens on average, {asked:g} were asked for")
        if system["tokens_counted_by"] == "chunks":
            found.append(f"{name}: the server reports no usage; each chunk is counted as one token")
        if (system["client_cpu_share"] or 0) > BUSY_CLIENT:
            share = system["client_cpu_share"]
            found.append(f"{name}: this client used {share:.0%} of a processor; the latencies may be its own")
        if len(system["answered_by"]) > 1:
            found.append(f"{name}: answered by {_shares(system)}")
        stops = [one["stopped_early"] for one in system["rounds"] if "stopped_early" in one]
        found += [f"{name}: stopped early, {reason}" for reason in stops]
    for label, path in (("output tokens/s", "output_tokens_per_second"), ("TPOT p50", "tpot_ms.p50")):
        spread = whole.get("ratios", {}).get(path)
        if spread and spread["min"] < 1 < spread["max"]:
            found.append(f"{label}: the rounds disagree on which is faster; no difference is shown")
    return found


def _shares(system: Mapping[str, Any]) -> str:
    """Returns the models that answered, with the shares of their answers."""
    total = system["succeeded"]
    return ", ".join(f"{name} {one['requests'] / total:.0%}" for name, one in system["answered_by"].items())


def untimed_note(system: Mapping[str, Any]) -> str:
    """Returns why some answers have no TPOT; `system` is the summary of their rounds."""
    return (
        f"{system['untimed']} of {system['succeeded']} answers have more tokens than their chunks can time "
        "(not streamed, or gathered on the way): they have no TPOT and keep no limit of it"
    )


def _value(system: Mapping[str, Any], path: str) -> float | None:
    name, _, part = path.partition(".")
    value = system.get(name, system["memory"].get(name))
    return value.get(part) if isinstance(value, dict) else value


def _cell(path: str, value: float | None) -> str:
    if value is None:
        return "-"
    if path.endswith("_bytes"):
        return f"{value / 2**20:,.1f} MiB"
    return f"{value:,.2f} ms" if "_ms" in path else f"{value:,.2f}"


def _ratio(spread: Mapping[str, Any] | None) -> str:
    if spread is None:
        return "-"
    if len(spread["rounds"]) == 1:
        return f"{spread['median']:.3f}"
    return f"{spread['median']:.3f} ({spread['min']:.3f} to {spread['max']:.3f})"
