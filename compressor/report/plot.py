"""The quality/latency front as an SVG that needs nothing but a viewer."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 640, 400, 70, 50, 40
_TICKS = 5
_LINE = "#0072b2"


def front_svg(title: str, points: Sequence[tuple[float, float]]) -> str:
    """points: (milliseconds, KL in nats per token), fastest first; both axes start at zero."""
    most_x, most_y = (max((p[axis] for p in points), default=1.0) or 1.0 for axis in (0, 1))

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = _WIDTH - _LEFT - 20, _HEIGHT - _BOTTOM - _TOP
        return _LEFT + across * x / most_x, _HEIGHT - _BOTTOM - up * y / most_y

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        'font-family="sans-serif" font-size="12">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        f'<text x="{_LEFT}" y="24" font-size="14">{escape(title)}</text>',
        f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 10}" text-anchor="middle">milliseconds</text>',
        f'<text transform="translate(16 {_HEIGHT / 2}) rotate(-90)" text-anchor="middle">'
        "KL to dense, nats per token, before the last reform</text>",
    ]
    for tick in range(_TICKS + 1):
        share = tick / _TICKS
        x, base = place(share * most_x, 0)
        left, y = place(0, share * most_y)
        parts.append(f'<path d="M{left:.1f} {y:.1f}H{_WIDTH - 20}" stroke="#ddd"/>')
        parts.append(_number(x, base + 18, "middle", share * most_x))
        parts.append(_number(left - 8, y + 4, "end", share * most_y))
    places = [place(*point) for point in points]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    parts.append(f'<path d="M{path}" fill="none" stroke="{_LINE}" stroke-width="2"/>')
    for number, ((x, y), (ms, kl)) in enumerate(zip(places, points, strict=True), 1):
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{_LINE}">'
            f"<title>plan {number:02d}: {ms:.4g} ms, {kl:.4g} nats per token</title></circle>"
        )
    return "\n".join([*parts, "</svg>", ""])


def _number(x: float, y: float, anchor: str, value: float) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{value:.3g}</text>'
