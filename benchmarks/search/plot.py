"""One plot of a document: the loss after reconstruction against the CPU seconds of search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lathe.compressor.report.page.drawing import Drawing, Plot


def plot(rows: Sequence[dict[str, Any]], text: str) -> str:
    """Returns an SVG file with a dot for each engine and budget, named beside it."""
    own = [row for row in rows if row["text"] == text]
    points = [(row["cpu_seconds"] + row["table_cpu_seconds"], row["increase"]) for row in own]
    drawing = Drawing("Loss against CPU seconds of search", f"{len(own)} plans, scored on {text}.", 360)
    most, worst = (1.1 * max(value for value in values) or 1.0 for values in zip(*points, strict=True))
    frame = Plot(drawing, (0.0, most), (0.0, worst), "CPU seconds, with the table", "loss increase")
    for row, point in zip(own, points, strict=True):
        x, y = frame.at(*point)
        drawing.dot("kept", x, y, 3.2, f"{row['engine']} at {row['budget']}: {row['increase']:.4f}")
        drawing.text(x + 6, y + 4, f"{row['engine']} {row['budget']}")
    return drawing.file()
