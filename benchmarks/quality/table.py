"""The rows as a table for people: medians over seeds, best first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from statistics import median
from typing import Any

from lathe.compressor.latency.workload import parse_share

OURS, OURS_LARGE = "lathe", "fast"
"""The default method, and that of large models, which counts as ours where the first was not run."""
ROUNDED = ("int8", "int4", "rounded")
"""Not of a size with the others."""


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a table per text, of loss increases, and one of accuracies; a line per method."""
    parts = [_of_text([r for r in rows if r["text"] == text], text) for text in _texts(rows)]
    if any("accuracy" in row for row in rows):
        parts.append(_accuracies([r for r in rows if "accuracy" in r and r["text"] == _texts(rows)[0]]))
    return "\n\n".join(parts)


def _texts(rows: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(r["text"] for r in rows))


def _of_text(rows: list[dict[str, Any]], text: str) -> str:
    cells: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        cells[row["method"], row["keep"]].append(row["increase"])
    keeps = sorted({keep for _, keep in cells}, key=parse_share, reverse=True)
    smallest = keeps[-1]
    names = sorted({m for m, _ in cells}, key=lambda m: median(cells.get((m, smallest), [float("inf")])))
    trained = {r["method"] for r in rows if "trained" in r}
    lines = [f"{text}: loss increase over dense, nats per token (median of seeds, lowest to highest)", ""]
    lines.append("| method | " + " | ".join(keeps) + " | candidates | seconds | peak GiB |")
    lines.append("|---" * (len(keeps) + 4) + "|")
    for name in names:
        mine = [r for r in rows if r["method"] == name]
        values = " | ".join(_cell(cells.get((name, keep), [])) for keep in keeps)
        counted, took = (int(median(r[k] for r in mine)) for k in ("candidates", "seconds"))
        memory = max(r["peak_memory_bytes"] for r in mine) / 2**30
        shown = f"{name} (trained)" if name in trained else name
        lines.append(f"| {shown} | {values} | {counted} | {took} | {memory:.2f} |")
    return "\n".join([*lines, *_margins(names, keeps, cells, trained)])


def _accuracies(rows: list[dict[str, Any]]) -> str:
    """Mean zero-shot accuracy, best of the smallest keep first."""
    cells: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        cells[row["method"], row["keep"]].append(100 * row["accuracy"])
    keeps = sorted({keep for _, keep in cells}, key=parse_share, reverse=True)
    names = sorted({m for m, _ in cells}, key=lambda m: -median(cells.get((m, keeps[-1]), [0.0])))
    tasks, dense = len(rows[0]["tasks"]), 100 * rows[0]["dense_accuracy"]
    lines = [f"Mean accuracy of {tasks} zero-shot tasks in %, {dense:.1f} dense (median of seeds)", ""]
    lines.append("| method | " + " | ".join(keeps) + " |")
    lines.append("|---" * (len(keeps) + 1) + "|")
    for name in names:
        values = (f"{median(found):.1f}" if (found := cells.get((name, k))) else "" for k in keeps)
        lines.append(f"| {name} | {' | '.join(values)} |")
    return "\n".join(lines)


def _margins(
    names: list[str], keeps: list[str], cells: dict[tuple[str, str], list[float]], trained: set[str]
) -> Iterator[str]:
    """How our loss increase compares with the best rival's, and with the paper's."""
    mine = OURS if OURS in names else OURS_LARGE
    rivals = [
        n for n in names if n not in (OURS, OURS_LARGE, "quick", *ROUNDED) and not n.startswith(f"{OURS}-")
    ]
    free = [n for n in rivals if n not in trained]
    titles = {"the best training-free method": free, "the best of the others": rivals, "the paper": ["paper"]}
    for title, others in titles.items():
        shares = []
        for keep in keeps:
            best = min((median(cells[o, keep]) for o in others if (o, keep) in cells), default=None)
            ours = cells.get((mine, keep))
            shares.append(f"{keep}: {median(ours) / best:.2f}" if ours and best else f"{keep}: -")
        if rivals and any(not s.endswith("-") for s in shares):
            yield f"\n{mine} over {title}: " + ", ".join(shares)


def _cell(values: list[float]) -> str:
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{median(values):.3f} ({min(values):.3f} to {max(values):.3f})"
