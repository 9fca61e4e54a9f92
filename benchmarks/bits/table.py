"""What is printed: a table of each batch size, and the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.bits.rows import ALREADY_MET, MADE, Row
from benchmarks.bits.verdict import Point

_COLUMNS = ("artefact", "ms", "over float32", "loss increase", "weights, MiB", "bits", "decoder kept")


def table(found: Sequence[Point], rows: Sequence[Row]) -> str:
    """Returns the points of one batch size in Markdown, in their order."""
    facts = {row.name: row.facts for row in rows}
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|---" * len(_COLUMNS) + "|"]
    for point in found:
        about = facts[point.name]
        cells = (
            point.name,
            f"{point.ms:.4g}",
            f"{1 / point.ratio:.3f}x ± {point.error / point.ratio:.1%}",
            f"{point.increase:+.4f} ± {point.increase_error:.4f}",
            f"{point.size / 2**20:.1f}",
            f"{about['mean_bits']:.2f}",
            f"{about['decoder_parameters_kept']:.1%}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def remarks(rows: Sequence[Row]) -> Iterator[str]:
    """Yields why artefacts were not made, and which ones missed their target."""
    for row in rows:
        if row.facts.get("met") is False:
            yield f"{row.name}: `compress` measured that it missed its target"
        if row.status != MADE:
            reason = "the dense model in that format is as fast" if row.status == ALREADY_MET else row.reason
            yield f"{row.name}: {reason}"


def verdict_lines(verdict: Mapping[str, Any]) -> Iterator[str]:
    """Yields a line for each of our points, then the issue's ratios."""
    for row in verdict["points"]:
        if not row["better"] and not row["fronts"]:
            yield f"{row['point']}: nothing as fast has less loss"
        for other in row["better"]:
            slower = "" if other["at_least_as_fast"] else ", slower within the error"
            yield (
                f"{row['point']}: {other['alternative']} has less loss, by {-other['loss_difference']:.4f} ± "
                f"{other['loss_standard_error']:.4f}, in {other['time']:.3f} of the time{slower}"
            )
        for family, loss in row["fronts"].items():
            yield f"{row['point']}: the front of {family} has a loss increase of {loss:.4f} at its time"
    yield from _ratio_lines(verdict["ratios"])


def _ratio_lines(ratios: Mapping[str, Any] | None) -> Iterator[str]:
    if ratios is None:
        return
    yield f"dense int4, rounded to nearest: loss increase {ratios['dense_int4_increase']:.4f}"
    for name, found in ratios.items():
        if isinstance(found, Mapping):
            yield (
                f"ours {name.replace('_', ' ')}: {found['increase']:.4f} ({found['point']}), "
                f"{found['ratio']:.3f} of that; interpolated {found['interpolated_increase']:.4f}, "
                f"{found['interpolated_ratio']:.3f}"
            )
        elif found is None:
            yield f"ours {name.replace('_', ' ')}: no point is within that"
