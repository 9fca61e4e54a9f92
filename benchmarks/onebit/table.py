"""The tables of a document's rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns a table in Markdown for each text, the fewest effective bits first."""
    texts = dict.fromkeys(row["text"] for row in rows)
    return "\n\n".join(_of_text(name, [row for row in rows if row["text"] == name]) for name in texts)


def _of_text(name: str, rows: Sequence[dict[str, Any]]) -> str:
    lines = [f"{name}\n", "| variant | nominal bits | effective bits | perplexity | loss increase | KL |"]
    lines.append("|---" * 6 + "|")
    lines += [
        f"| {row['variant']} | {row['nominal_bits']:.2f} | {row['effective_bits']:.2f} "
        f"| {row['perplexity']:,.1f} | {row['increase']:.3f} | {row['kl']:.3f} |"
        for row in sorted(rows, key=lambda row: row["effective_bits"])
    ]
    return "\n".join(lines)
