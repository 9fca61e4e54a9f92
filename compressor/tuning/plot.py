"""The plot of a study: every trial's loss, and the best so far."""

from __future__ import annotations

from collections.abc import Sequence

from lathe.compressor.report.page.drawing import Drawing, Plot
from lathe.compressor.tuning.study import Record

_CLASSES = {"complete": "front", "dropped": "dropped"}


def plot(title: str, found: Sequence[Record]) -> str:
    """Returns an SVG file.

    Args:
        title: The title.
        found: The trials that ended, in order; one that was dropped has the loss of its first run.
    """
    rows = [(n, r, r.loss if r.loss is not None else r.first) for n, r in enumerate(found)]
    shown = [(n, r, loss) for n, r, loss in rows if loss is not None]
    losses = [r.loss for r in found if r.loss is not None]
    drawing = Drawing(title, f"{len(found)} trials; the best loses {min(losses):.4g} nats per token.", 270)
    low, high = min(losses), max(loss for _, _, loss in shown)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    frame = Plot(
        drawing,
        (0.0, max(len(found) - 1.0, 1.0)),
        (low - margin, high + margin),
        "trial (0: the default)",
        "loss over dense, nats per token",
    )
    steps, best = list[tuple[float, float]](), None
    for n, record, _ in shown:
        if record.loss is not None and (best is None or record.loss < best):
            steps += [] if best is None else [(n, best)]
            best = record.loss
            steps.append((n, best))
    steps.append((max(len(found) - 1, 0), min(losses)))
    drawing.line("front", [frame.at(*step) for step in steps])
    for n, record, loss in shown:
        tip = f"trial {n}: {loss:.4g}" + (", on fewer tokens, dropped" if record.state == "dropped" else "")
        drawing.dot(_CLASSES[record.state], *frame.at(n, loss), tip=tip)
    return drawing.file()
