"""The plot: loss increase against milliseconds and against bytes, all axes logarithmic."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.bits.variants import REFERENCE, VARIANTS
from benchmarks.bits.verdict import Cost, Point, bytes_of, front
from lathe.compressor.report.page.drawing import Drawing, Range, share

_PANEL, _HEIGHT, _LEGEND = 420.0, 340.0, 190.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 14.0, 24.0, 44.0
_LEAST = 1e-3
"""Nats per token; points with a smaller loss increase are drawn there."""
_MARGIN = 1.1
_FACTORS = ((1.0, (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8)), (3.0, (1, 2, 5)), (math.inf, (1,)))
"""Of the powers of ten, on axes of so many decades."""
_STYLES = {
    "float32": "dense",
    "int8": "ffn",
    "int8-nearest": "ffn repeat",
    "int4": "head",
    "int4-nearest": "head repeat",
    "mixed": "front",
    "mixed-kv8": "front repeat",
    "mixed-llamacpp": "attention",
    "llama.cpp": "attention repeat",
}
"""The CSS class of each family."""


@dataclass(frozen=True)
class _Panel:
    """A frame with logarithmic axes whose left edge is at `start`."""

    drawing: Drawing
    start: float
    x: Range
    y: Range

    def frame(self, x_name: str, y_name: str) -> None:
        for value in log_ticks(self.y):
            down = self.at(self.x[0], value)[1]
            self.drawing.line("grid", [(self.start + _LEFT, down), (self.start + _PANEL - _RIGHT, down)])
            self.drawing.text(self.start + _LEFT - 6, down + 4, f"{value:g}", "tick", "end")
        for value in log_ticks(self.x):
            across = self.at(value, self.y[0])[0]
            self.drawing.text(across, _HEIGHT - _BOTTOM + 16, f"{value:g}", "tick", "middle")
        self.drawing.text(self.start + (_LEFT + _PANEL) / 2, _HEIGHT - 8, x_name, "label", "middle")
        self.drawing.text(self.start + 4, 13, y_name)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Returns where a point lies in the drawing."""
        across, up = _PANEL - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
        return (
            self.start + _LEFT + across * share(math.log(x), (math.log(self.x[0]), math.log(self.x[1]))),
            _HEIGHT - _BOTTOM - up * share(math.log(y), (math.log(self.y[0]), math.log(self.y[1]))),
        )


def plot(title: str, found: Sequence[Point]) -> str:
    """Returns the points of one batch size as an SVG file; the reference, without a loss, is left out."""
    shown = [point for point in found if point.variant != REFERENCE]
    families: dict[str, list[Point]] = defaultdict(list)
    for point in shown:
        families[point.family].append(point)
    description = f"Loss increase of {len(shown)} artefacts against their time and their bytes."
    drawing = Drawing(title, description, _HEIGHT, 2 * _PANEL + _LEGEND)
    for number, (cost, name) in enumerate(((_milliseconds, "milliseconds"), (_mebibytes, "weights, MiB"))):
        panel = _Panel(drawing, number * _PANEL, _range(map(cost, shown)), _range(map(height, shown)))
        panel.frame(name, "loss increase, nats per token")
        for family, members in families.items():
            _draw(panel, family, members, cost)
    for number, family in enumerate(families):
        top = _TOP + 12 + 20 * number
        drawing.dot(_STYLES[family], 2 * _PANEL + 12, top - 4, 5)
        drawing.text(2 * _PANEL + 24, top, family)
    return drawing.file()


def _draw(panel: _Panel, family: str, members: Sequence[Point], cost: Cost) -> None:
    if VARIANTS[members[0].variant].ours:
        panel.drawing.line("front", [panel.at(cost(p), height(p)) for p in front(members, cost)])
    for point in members:
        tip = f"{point.name}: {point.ms:.4g} ms, {point.size / 2**20:.4g} MiB, {point.increase:+.4f}"
        panel.drawing.dot(_STYLES[family], *panel.at(cost(point), height(point)), 4.5, tip)


def height(point: Point) -> float:
    """Returns the loss increase that is drawn."""
    return max(point.increase, _LEAST)


def log_ticks(within: Range) -> list[float]:
    """Returns round numbers inside a range, the more of each decade the fewer decades there are."""
    low, high = (math.log10(end) for end in within)
    factors = next(factors for most, factors in _FACTORS if high - low <= most)
    values = [f * 10.0**p for p in range(math.floor(low), math.ceil(high) + 1) for f in factors]
    return [round(value, 12) for value in values if within[0] <= value <= within[1]]


def _range(values: Iterator[float]) -> Range:
    listed = [*values] or [1.0]
    return min(listed) / _MARGIN, max(listed) * _MARGIN


def _milliseconds(point: Point) -> float:
    return point.ms


def _mebibytes(point: Point) -> float:
    return bytes_of(point) / 2**20
