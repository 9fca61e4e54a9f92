"""The tables of a document's rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns a table in Markdown for each text, the least increase first."""
    texts = dict.fromkeys(row["text"] for row in rows)
    return "\n\n".join(_of_text(name, [row for row in rows if row["text"] == name]) for name in texts)


def _of_text(name: str, rows: Sequence[dict[str, Any]]) -> str:
    lines = [f"{name}\n", "| variant | zeros | perplexity | loss increase | KL | seconds |", "|---" * 6 + "|"]
    lines += [
        f"| {row['variant']} | {row['zeros']:.0%} | {row['perplexity']:,.2f} "
        f"| {row['increase']:.3f} | {row['kl']:.3f} | {row['seconds']:.0f} |"
        for row in sorted(rows, key=lambda row: row["increase"])
    ]
    return "\n".join(lines)


def speed_table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns a table in Markdown of milliseconds of a step, with and without zeros."""
    lines = [
        "| engine | weights | dense, ms | with zeros, ms | time with zeros / dense | MiB dense | MiB |",
        "|---" * 7 + "|",
    ]
    lines += [
        f"| {row['engine']} | {row['weights']} | {row['dense_ms']:.2f} | {row['pattern_ms']:.2f} "
        f"| {row['ratio']:.3f} ± {row['standard_error']:.3f} | {row['dense_bytes'] / 2**20:.0f} "
        f"| {row['pattern_bytes'] / 2**20:.0f} |"
        for row in rows
    ]
    return "\n".join(lines)
