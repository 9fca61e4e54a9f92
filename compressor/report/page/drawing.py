"""Small SVG drawings: coloured by the page's style sheet, escaped, with a name and a description.

All lengths are in units of the view box, which is about as wide as a phone, so that text stays legible there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from markupsafe import Markup

WIDTH = 380.0
LAYERS_TOP = 24.0
COLUMNS = {"attention": (34.0, 136.0), "ffn": (182.0, 194.0)}
"""Drawings with a row for each layer: where the rows begin; where a block's column begins, its width."""
_STYLES = Path(__file__).with_name("templates")
Range = tuple[float, float]


class Drawing:
    """One picture with a name and a description for those who do not see it."""

    def __init__(self, title: str, description: str, height: float, width: float = WIDTH) -> None:
        self.width, self.height = width, height
        self.root = ElementTree.Element(
            "svg", {"viewBox": f"0 0 {width:g} {height:g}", "role": "img", "aria-label": title}
        )
        ElementTree.SubElement(self.root, "title").text = title
        ElementTree.SubElement(self.root, "desc").text = description

    def add(self, tag: str, css: str, tip: str = "", **attributes: float | str) -> ElementTree.Element:
        """Adds an element of CSS class `css`; `tip` is its tooltip."""
        values = {name.replace("_", "-"): _number(value) for name, value in attributes.items()}
        element = ElementTree.SubElement(self.root, tag, {"class": css, **values})
        if tip:
            ElementTree.SubElement(element, "title").text = tip
        return element

    def box(self, css: str, x: float, y: float, width: float, height: float, tip: str = "") -> None:
        self.add("rect", css, tip, x=x, y=y, width=max(width, 0.0), height=height, rx=1.5)

    def line(self, css: str, points: Sequence[tuple[float, float]]) -> None:
        self.add("path", css, d="M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points))

    def dot(self, css: str, x: float, y: float, radius: float = 3.5, tip: str = "") -> None:
        self.add("circle", css, tip, cx=x, cy=y, r=radius)

    def diamond(self, css: str, x: float, y: float, radius: float = 7.0, tip: str = "") -> None:
        corners = f"M{x:.1f} {y - radius:.1f}l{radius} {radius}l-{radius} {radius}l-{radius} -{radius}z"
        self.add("path", css, tip, d=corners)

    def text(self, x: float, y: float, text: str, css: str = "label", anchor: str = "start") -> None:
        self.add("text", css, x=x, y=y, text_anchor=anchor).text = text

    def file(self) -> str:
        """Returns the drawing as an SVG file, with the page's colours."""
        self.root.set("xmlns", "http://www.w3.org/2000/svg")
        style = ElementTree.Element("style")
        style.text = "\n".join((_STYLES / name).read_text() for name in ("palette.css", "drawing.css"))
        style.text += "svg { background: var(--paper); }"
        self.root.insert(2, style)
        return ElementTree.tostring(self.root, encoding="unicode") + "\n"

    @property
    def markup(self) -> Markup:
        """The drawing as part of an HTML page."""
        return Markup(ElementTree.tostring(self.root, encoding="unicode"))


@dataclass(frozen=True)
class Plot:
    """A frame with two linear axes, drawn at once; `x` and `y` are what is shown of each."""

    drawing: Drawing
    x: Range
    y: Range
    x_name: str
    y_name: str
    left: float = 52.0
    top: float = 24.0
    right: float = 14.0
    bottom: float = 44.0

    def __post_init__(self) -> None:
        for value in ticks(self.y):
            height = self.at(0, value)[1]
            self.drawing.line("grid", [(self.left, height), (self.drawing.width - self.right, height)])
            self.drawing.text(self.left - 6, height + 4, f"{value:g}", "tick", "end")
        floor = self.drawing.height - self.bottom
        for value in ticks(self.x):
            self.drawing.text(self.at(value, 0)[0], floor + 16, f"{value:g}", "tick", "middle")
        middle = (self.left + self.drawing.width - self.right) / 2
        self.drawing.text(middle, self.drawing.height - 8, self.x_name, "label", "middle")
        self.drawing.text(4, 13, self.y_name)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Returns where a point lies in the drawing."""
        across = self.drawing.width - self.left - self.right
        up = self.drawing.height - self.top - self.bottom
        return (
            self.left + across * share(x, self.x),
            self.drawing.height - self.bottom - up * share(y, self.y),
        )

    def upright(self, css: str, x: float) -> None:
        """Draws a line over the whole height."""
        place = self.at(x, 0)[0]
        self.drawing.line(css, [(place, self.top), (place, self.drawing.height - self.bottom)])


def share(value: float, within: Range) -> float:
    """Returns how far `value` is along a range, from 0 to 1; beyond its ends, the ends."""
    low, high = within
    return min(1.0, max(0.0, (value - low) / (high - low))) if high > low else 0.0


def ticks(within: Range, about: int = 5) -> list[float]:
    """Returns about so many round numbers inside a range."""
    low, high = within
    if not high > low:
        return [low]
    raw = (high - low) / about
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
