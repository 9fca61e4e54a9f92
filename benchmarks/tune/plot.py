"""The plot of samplers: the best loss after each trial."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.tune.curves import quartiles
from lathe.compressor.report.page.drawing import Drawing, Plot

_COLOURS = ("var(--quiet)", "var(--attention)", "var(--ffn)")


def plot(document: Mapping[str, Any]) -> str:
    """Returns an SVG file: medians over seeds, with bands from the first to the third quartile."""
    found = {name: quartiles(losses) for name, losses in document["losses"].items()}
    title = f"{document['model']}: best loss after each trial, {document['seeds']} seeds"
    drawing = Drawing(title, "Medians with quartiles: " + ", ".join(found), 300)
    values = [float(v) for rows in found.values() for v in rows.ravel()]
    margin = 0.05 * (max(values) - min(values)) or 1.0
    frame = Plot(
        drawing,
        (0.0, float(document["trials"] - 1)),
        (min(values) - margin, max(values) + margin),
        "trial (0: the default)",
        document["unit"],
    )
    for (name, (low, middle, high)), colour in zip(found.items(), _COLOURS, strict=True):
        edge = [frame.at(n, v) for n, v in enumerate(high)]
        edge += [frame.at(n, v) for n, v in reversed(list(enumerate(low)))]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in edge)
        drawing.add("polygon", "band", points=points, style=f"fill: {colour}; fill-opacity: .18")
        line = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in (frame.at(n, v) for n, v in enumerate(middle)))
        drawing.add("path", "median", d=line, style=f"fill: none; stroke: {colour}; stroke-width: 2")
        row = 190 + 16 * list(found).index(name)
        drawing.add("rect", "key", x=64, y=row - 9, width=10, height=10, style=f"fill: {colour}")
        drawing.text(80, row, name)
    return drawing.file()
