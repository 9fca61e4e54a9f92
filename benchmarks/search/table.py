"""The tables of a document's rows, and what they say of the default."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

OURS = "lathe"
_HEADER = (
    "engine",
    "seeds",
    "speed-up",
    "loss increase before",
    "after",
    "CPU seconds",
    "of the table",
    "forward tokens",
    "backward",
    "peak MiB",
)


def medians(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns one row for all seeds of an engine, budget and text: medians, and how many seeds there are.

    Numbers that a seed's row lacks are left out.
    """
    return [
        {
            "engine": engine,
            "budget": budget,
            "text": text,
            "seeds": len(same),
            **{
                name: statistics.median(row[name] for row in same)
                for name, value in same[0].items()
                if isinstance(value, int | float) and all(name in row for row in same)
            },
        }
        for (engine, budget, text), same in _seeds(rows).items()
    ]


def _seeds(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """Returns the rows of all seeds, in their order, by engine, budget and text."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["engine"], row["budget"], row["text"]), []).append(row)
    return groups


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns a table in Markdown for each text and budget, the least loss after reconstruction first.

    Seeds of an engine are one row, of medians.
    """
    rows = medians(rows)
    pairs = dict.fromkeys((row["text"], row["budget"]) for row in rows)
    return "\n\n".join(
        _of([row for row in rows if (row["text"], row["budget"]) == pair], *pair) for pair in pairs
    )


def verdict(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Returns a line for each text and budget on which an engine has less loss than the default's.

    Medians of as many seeds are compared; the line says in how many of them the engine has less.
    """
    of_seeds, rows, lines = _seeds(rows), medians(rows), []
    for text, budget in dict.fromkeys((row["text"], row["budget"]) for row in rows):
        here = [row for row in rows if (row["text"], row["budget"]) == (text, budget)]
        seeds = next((row["seeds"] for row in here if row["engine"] == OURS), None)
        own = {row["engine"]: row["increase"] for row in here if row["seeds"] == seeds}
        best = min(own, key=own.__getitem__, default=OURS)
        if OURS in own and own[best] < own[OURS]:
            less = own[OURS] - own[best]
            pairs = zip(of_seeds[best, budget, text], of_seeds[OURS, budget, text], strict=True)
            count = sum(other["increase"] < row["increase"] for other, row in pairs)
            where = f", in {count} of {seeds} seeds" if seeds and seeds > 1 else ""
            lines.append(f"{text} at {budget}: {best} has {less:.4f} nats per token less than {OURS}{where}")
    return lines


def _of(rows: Sequence[dict[str, Any]], text: str, budget: str) -> str:
    lines = [f"{text} at {budget}\n", f"| {' | '.join(_HEADER)} |", "|---" * len(_HEADER) + "|"]
    lines += [
        f"| {row['engine']} | {row['seeds']} | {row['speedup']:.3f}x "
        f"| {row['increase_before']:.4f} | {row['increase']:.4f} "
        f"| {row['cpu_seconds']:.0f} | {row['table_cpu_seconds']:.0f} | {row['forward_tokens']:,.0f} "
        f"| {_backward(row)} | {row['peak_memory_bytes'] / 2**20:,.0f} |"
        for row in sorted(rows, key=lambda row: row["increase"])
    ]
    return "\n".join(lines)


def _backward(row: dict[str, Any]) -> str:
    """Returns the tokens that derivatives went back through; rows of earlier runs have not counted them."""
    return f"{row['backward_tokens']:,.0f}" if "backward_tokens" in row else "–"
