"""At equal bits: a rule's rows against the curve of fixed groups; and the table."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from benchmarks.groups.choices import FIXED

Row = dict[str, Any]
_SERIES = ("text", "method", "code_bits")
MEASURES = ("kl", "increase")


def at_equal_bits(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows, those of rules with what fixed groups lose at their bits.

    Between two fixed sizes that is the straight line: what a model loses about, in the mean, if some of its
    matrices, drawn by lot, have the one and the others the other. A rule has {"fixed": {measure: value}} and
    {"over_fixed": kl / that of fixed}; None beyond the ends of the curve.
    """
    found = []
    for row in rows:
        if row["rule"] == FIXED:
            found.append(row)
            continue
        curve = [r for r in rows if r["rule"] == FIXED and all(r[key] == row[key] for key in _SERIES)]
        fixed = {measure: interpolated(curve, row["bits"], measure) for measure in MEASURES}
        over = row["kl"] / fixed["kl"] if fixed["kl"] else None
        found.append(row | {"fixed": fixed, "over_fixed": over})
    return found


def interpolated(curve: Sequence[Row], bits: float, measure: str) -> float | None:
    """Returns a measure on the straight lines between rows, by their bits; None beyond the ends."""
    points = sorted({row["bits"]: row[measure] for row in curve}.items())
    for (low, before), (high, after) in pairwise(points):
        if low <= bits <= high:
            return float(before + (after - before) * (bits - low) / (high - low))
    return None


def table(rows: Sequence[Row]) -> str:
    """Returns the rows as Markdown, by text, method and bits of a code, then by bits with scales."""
    lines = [
        "| text | rounding | groups | bits per weight | loss increase | KL "
        "| KL of fixed groups at these bits | KL over that |",
        "|---" * 8 + "|",
    ]
    for row in sorted(rows, key=lambda r: (*(r[key] for key in _SERIES), r["bits"])):
        fixed = row.get("fixed", {}).get("kl")
        over = row.get("over_fixed")
        lines.append(
            f"| {row['text']} | int{row['code_bits']}, {row['method']} | {row['groups']} | {row['bits']:.3f} "
            f"| {row['increase']:.4f} | {row['kl']:.4f} | {'' if fixed is None else f'{fixed:.4f}'} "
            f"| {'' if over is None else f'{over:.2f}'} |"
        )
    return "\n".join(lines)
