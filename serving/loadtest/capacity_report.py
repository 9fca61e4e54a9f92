"""The terminal report of a search for the most load within an SLO."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from lathe.serving.loadtest.find_capacity import level_in_words
from lathe.serving.loadtest.report import BUSY_CLIENT, filled, untimed_note


def failures(whole: Mapping[str, Any]) -> str | None:
    """Returns a sentence about requests that failed at the first level tried; None if none did."""
    parts = []
    for name, system in whole["systems"].items():
        lowest = system["levels"][0]
        if lowest["failed"]:
            kinds = ", ".join(f"{count} {kind}" for kind, count in lowest["errors"].items())
            level = level_in_words(lowest["level"], whole["settings"])
            parts.append(
                f"{name}: {lowest['failed']} of {lowest['requests']} requests failed at {level} ({kinds})"
            )
    return "; ".join(parts) or None


def print_report(whole: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints the report on stdout, or on `console`."""
    (console or Console()).print(rendered(whole))


def rendered(whole: Mapping[str, Any]) -> RenderableType:
    """Returns the levels tried on each system, the answer, and the definitions of its words."""
    tables = [_table(name, system, whole["settings"]) for name, system in whole["systems"].items()]
    answer = Text("\n".join(answers(whole)), style="bold")
    warned = [Text(note, style="yellow") for note in notes(whole)]
    return Group(Text(title(whole["settings"])), *tables, answer, *warned, _definitions(whole["definitions"]))


def title(settings: Mapping[str, Any]) -> str:
    """Returns the limits and the share of requests that has to keep them, in words."""
    limits = [
        f"{name.removesuffix('_ms').upper()} <= {limit:g} ms"
        for name, limit in settings["slo"].items()
        if name != "share"
    ]
    return f"{' and '.join(limits)} for {settings['slo']['share']:.0%} of the requests"


def answers(whole: Mapping[str, Any]) -> list[str]:
    """Returns a sentence for each system, and how the two compare."""
    found = [_answer(name, system, whole["settings"]) for name, system in whole["systems"].items()]
    if "ratio" in whole:
        found.append(f"subnet / dense: {whole['ratio']:.2f}")
    return found


def _answer(name: str, system: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    most, failing = system["most"], system["lowest_failing"]
    unsure = "" if system["certain"] else "; not certain, more --requests or --rounds would tell"
    if not most:
        return f"{name}: not even {level_in_words(failing, settings)} within the SLO{unsure}"
    limit = (
        "the search ended there" if failing is None else f"{level_in_words(failing, settings)} are too many"
    )
    return f"{name}: {level_in_words(most, settings)} within the SLO; {limit}{unsure}"


def level_rows(system: Mapping[str, Any], settings: Mapping[str, Any]) -> list[list[str]]:
    """Returns the head and the rows of a system's table: the levels that were tried, and the results."""
    limits = [key for key in settings["slo"] if key != "share"]
    heads = [f"{limit[:-3].upper()} p95 (kept)" for limit in limits]
    rows = [[unit(settings), "within (interval)", *heads, "tokens/s", "result"]]
    for level in system["levels"]:
        low, high = level["interval"]
        errors = f", {level['failed']} of {level['requests']} with an error" if level["failed"] else ""
        rows.append(
            [
                f"{level['level']:.4g}",
                f"{level['within']:.1%} ({100 * low:.0f}-{high:.0%})",
                *(_kept(level, limit) for limit in limits),
                f"{level['output_tokens_per_second']:,.0f}",
                ("passed" if level["passed"] else "failed") + errors,
            ]
        )
    return rows


def notes(whole: Mapping[str, Any]) -> list[str]:
    """Returns what a reader of the answer has to know.

    These are requests that were changed for the server, tokens that could not be timed or were not counted,
    and a client that was itself busy at the bounds.
    """
    found = []
    for name, system in whole["systems"].items():
        found += [f"{name}: {remark}" for remark in system["remarks"]]
        if unclear := [level for level in system["levels"] if level["untimed"]]:
            level = unclear[0]
            found.append(
                f"{name}: at {level_in_words(level['level'], whole['settings'])} {untimed_note(level)}"
            )
        if any(level["tokens_counted_by"] == "chunks" for level in system["levels"] if level["succeeded"]):
            found.append(f"{name}: the server reports no usage; each chunk is counted as one token")
        shares = [
            level["client_cpu_share"] or 0.0
            for level in system["levels"]
            if level["level"] in (system["most"], system["lowest_failing"])
        ]
        if max(shares, default=0.0) > BUSY_CLIENT:
            found.append(
                f"{name}: this client used {max(shares):.0%} of a processor; it may be the limit itself"
            )
    return found


def _kept(level: Mapping[str, Any], limit: str) -> str:
    share = f"({level['within_each'][limit[:-3]]:.0%})"
    return f"{level[limit]['p95']:,.1f} ms {share}" if level[limit] else share


def unit(settings: Mapping[str, Any]) -> str:
    """Returns the unit of the levels."""
    return "requests/s" if "rate" in settings else "users"


def _table(name: str, system: Mapping[str, Any], settings: Mapping[str, Any]) -> Table:
    table = Table(title=name, title_justify="left", box=None, padding=(0, 2, 0, 0))
    return filled(table, level_rows(system, settings), no_wrap=True)


def _definitions(text: Mapping[str, str]) -> Text:
    lines = [f"{name[:-3].upper()} = {text[name]}" for name in ("ttft_ms", "tpot_ms", "e2e_ms")]
    lines += [f"{name} = {text[name]}" for name in ("within", "interval", "judged", "most", "users")]
    return Text("\n".join(lines), style="dim")
