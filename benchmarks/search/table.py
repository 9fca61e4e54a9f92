"""The tables of a document's rows, and what they say of the default."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

OURS = "lathe"
_HEADER = (
    "engine",
    "speed-up",
    "loss increase before",
    "after",
    "CPU seconds",
    "of the table",
    "forward tokens",
    "backward",
    "peak MiB",
)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns a table in Markdown for each text and budget, the least loss after reconstruction first."""
    pairs = dict.fromkeys((row["text"], row["budget"]) for row in rows)
    return "\n\n".join(
        _of([row for row in rows if (row["text"], row["budget"]) == pair], *pair) for pair in pairs
    )


def verdict(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Returns a line for each text and budget on which an engine has less loss than the default's."""
    lines = []
    for text, budget in dict.fromkeys((row["text"], row["budget"]) for row in rows):
        here = [row for row in rows if (row["text"], row["budget"]) == (text, budget)]
        own = {row["engine"]: row["increase"] for row in here}
        best = min(own, key=own.__getitem__)
        if OURS in own and own[best] < own[OURS]:
            less = own[OURS] - own[best]
            lines.append(f"{text} at {budget}: {best} has {less:.4f} nats per token less than {OURS}")
    return lines


def _of(rows: Sequence[dict[str, Any]], text: str, budget: str) -> str:
    lines = [f"{text} at {budget}\n", f"| {' | '.join(_HEADER)} |", "|---" * len(_HEADER) + "|"]
    lines += [
        f"| {row['engine']} | {row['speedup']:.3f}x | {row['increase_before']:.4f} | {row['increase']:.4f} "
        f"| {row['cpu_seconds']:.0f} | {row['table_cpu_seconds']:.0f} | {row['forward_tokens']:,.0f} "
        f"| {_backward(row)} | {row['peak_memory_bytes'] / 2**20:,.0f} |"
        for row in sorted(rows, key=lambda row: row["increase"])
    ]
    return "\n".join(lines)


def _backward(row: dict[str, Any]) -> str:
    """Returns the tokens that derivatives went back through; rows of earlier runs have not counted them."""
    return f"{row['backward_tokens']:,.0f}" if "backward_tokens" in row else "–"
