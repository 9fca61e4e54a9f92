"""Plots as inline SVG: colours come from the page's style, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 360, 240
LEFT, RIGHT, TOP, BOTTOM = 48, 18, 12, 40
MOST_MARKS = 400

Point = tuple[float, float]


@dataclass
class Plot:
    """Two axes and what is drawn between them; both begin at 0.

    Screen readers read `title` and `text` instead of the picture, so `text` gives its main numbers. `right`
    and `top` are the ends of the axes; if not given, the largest value drawn.
    """

    title: str
    text: str
    x_label: str
    y_label: str
    right: float = 0.0
    top: float = 0.0
    _shapes: list[tuple[str, int, Sequence[Point]]] = field(default_factory=list)
    _limits: list[tuple[float, bool]] = field(default_factory=list)

    def line(self, series: int, points: Sequence[Point]) -> None:
        """Draws the `series`-th system (from 0) as a line."""
        self._add("line", series, points)

    def curve(self, series: int, points: Sequence[Point]) -> None:
        """Draws the `series`-th system as a line with a mark at each point."""
        self.line(series, points)
        self.marks(series, points)

    def marks(self, series: int, points: Sequence[Point]) -> None:
        """Draws the `series`-th system as a mark for each point; of too many points, evenly chosen ones."""
        step = max(1, math.ceil(len(points) / MOST_MARKS))
        self._add("marks", series, points[::step])

    def bars(self, series: int, ranges: Sequence[tuple[float, float, float]]) -> None:
        """Draws ranges (x, lowest y, highest y) of the `series`-th system."""
        self._add("bars", series, [(x, y) for x, low, high in ranges for y in (low, high)])

    def limit(self, value: float, vertical: bool = False) -> None:
        """Draws a line that should not be crossed, at a y or, if `vertical`, at an x."""
        self._limits.append((value, vertical))
        self.right, self.top = (
            (max(self.right, value), self.top) if vertical else (self.right, max(self.top, value))
        )

    def _add(self, kind: str, series: int, points: Sequence[Point]) -> None:
        self._shapes.append((kind, series, points))

    def svg(self) -> str:
        points = [point for _, _, shape in self._shapes for point in shape]
        right = ticks(self.right or max((x for x, _ in points), default=1.0))
        top = ticks(self.top or max((y for _, y in points), default=1.0))
        frame = _Frame(right[-1], top[-1])
        parts = [
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
            f"<title>{escape(self.title)}</title><desc>{escape(self.text)}</desc>",
            *_axes(frame, right, top, self.x_label, self.y_label),
            *(_limit(frame, value, vertical) for value, vertical in self._limits),
            *(_DRAW[kind](frame, series, shape) for kind, series, shape in self._shapes),
            "</svg>",
        ]
        return "".join(parts)


@dataclass(frozen=True)
class _Frame:
    """Maps values to coordinates; values beyond an axis stay at its end."""

    right: float
    top: float

    def x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * min(value / self.right, 1.0)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(value / self.top, 1.0)

    def at(self, point: Point) -> str:
        return f"{self.x(point[0]):.1f} {self.y(point[1]):.1f}"


def ticks(most: float) -> list[float]:
    """Returns three to six round numbers, from 0 to the first that is not below `most`."""
    if not 0 < most < math.inf:
        most = 1.0
    size = 10 ** math.floor(math.log10(most))
    step = next(size * part for part in (0.2, 0.25, 0.5, 1, 2) if most / (size * part) <= 5)
    return [step * i for i in range(math.ceil(most / step - 1e-9) + 1)]


def _axes(frame: _Frame, right: list[float], top: list[float], x_label: str, y_label: str) -> list[str]:
    base = HEIGHT - BOTTOM
    parts = [f'<path class="rule" d="M{LEFT} {frame.y(value):.1f}H{WIDTH - RIGHT}"/>' for value in top]
    parts += [
        f'<text x="{LEFT - 5}" y="{frame.y(value) + 4:.1f}" text-anchor="end">{value:g}</text>'
        for value in (round(value, 9) for value in top)
    ]
    parts += [
        f'<text x="{frame.x(value):.1f}" y="{base + 15}" text-anchor="middle">{value:g}</text>'
        for value in (round(value, 9) for value in right)
    ]
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>')
    place = f'transform="translate(11 {(TOP + base) / 2}) rotate(-90)"'
    parts.append(f'<text {place} text-anchor="middle">{escape(y_label)}</text>')
    return parts


def _limit(frame: _Frame, value: float, vertical: bool) -> str:
    if vertical:
        return f'<path class="limit" d="M{frame.x(value):.1f} {TOP}V{HEIGHT - BOTTOM}"/>'
    return f'<path class="limit" d="M{LEFT} {frame.y(value):.1f}H{WIDTH - RIGHT}"/>'


def _line(frame: _Frame, series: int, points: Sequence[Point]) -> str:
    path = "L".join(frame.at(point) for point in points)
    return f'<path class="line s{series}" d="M{path}"/>' if points else ""


def _marks(frame: _Frame, series: int, points: Sequence[Point]) -> str:
    """Draws circles for the first system and squares for the second, so that not only colour differs."""
    path = "M-3 -3h6v6h-6z" if series else "M-3.4 0a3.4 3.4 0 1 0 6.8 0a3.4 3.4 0 1 0 -6.8 0"
    return "".join(
        f'<path class="mark s{series}" transform="translate({frame.at(point)})" d="{path}"/>'
        for point in points
    )


def _bars(frame: _Frame, series: int, points: Sequence[Point]) -> str:
    """Draws pairs of points with the same x; those of the second system a little to the right."""
    shift = 3 * series
    return "".join(
        f'<path class="bar s{series}" d="M{frame.x(x) + shift:.1f} {frame.y(low):.1f}V{frame.y(high):.1f}"/>'
        for (x, low), (_, high) in zip(points[::2], points[1::2], strict=True)
    )


_DRAW = {"line": _line, "marks": _marks, "bars": _bars}
