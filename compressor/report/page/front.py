"""The section on quality against cost: every budget's best plan, and the plan that was made."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from markupsafe import Markup

from lathe.artefact.report_format import Front
from lathe.compressor.report.page.drawing import Drawing, Plot
from lathe.compressor.report.page.section import Facts, Key, Section, Table, command, percent

Point = tuple[float, float]


def section(facts: Facts) -> Section | None:
    """Returns the section; None in a report without a front."""
    front = facts.report.get("front")
    if not front or not front["points"]:
        return None
    timed = front["cost"] == "milliseconds"
    return Section(
        "front",
        "Quality against " + ("latency" if timed else "size"),
        "Each dot is the best plan found for one budget. Lower is closer to the dense model, further left "
        f"{'faster' if timed else 'smaller'}. The search minimises the sum of sensitivities: the KL to dense "
        "of each block pruned alone, before the final reconstruction, which removes much of it.",
        _command(facts, timed),
        figures=[_figure(front, facts.latency.get("target_ms") if timed else None, timed)],
        keys=[
            Key("front", "best plans"),
            Key("chosen", "the plan made"),
            *([Key("target", "target")] if timed and facts.latency.get("target_ms") else []),
        ],
        table=_table(front, timed),
    )


def _table(front: Front, timed: bool) -> Table:
    rows = [*((str(i), row) for i, row in enumerate(front["points"], 1)), ("made", front["chosen"])]
    bits = ("bits per weight",) if "bits_per_weight" in front["chosen"] else ()
    return Table(
        "The front",
        ("plan", _unit(timed), "sensitivity, nats per token", "layers' parameters kept", *bits),
        [
            (
                name,
                _cost(row["cost"], timed),
                f"{row['damage']:.4f}",
                percent(row["kept"]),
                *(f"{row['bits_per_weight']:.1f}" for _ in bits),
            )
            for name, row in rows
        ],
    )


def _command(facts: Facts, timed: bool) -> str:
    if not timed:
        return str(facts.report["command"])
    asked = (*facts.workload, *facts.exports, *facts.text)
    return command("compress", facts.model, "--front", *asked, "-o", "front")


def _unit(timed: bool) -> str:
    return "ms, predicted" if timed else "share of the layers' parameters"


def _cost(value: float, timed: bool) -> str:
    return f"{value:.3g}" if timed else percent(value)


def _figure(front: Front, target: float | None, timed: bool) -> Markup:
    points, chosen = [(p["cost"], p["damage"]) for p in front["points"]], front["chosen"]
    place = f"{_cost(chosen['cost'], timed)}{' ms' if timed else ''}, {chosen['damage']:.3g} nats per token"
    drawing = Drawing(
        "Sensitivity against " + ("latency" if timed else "size"),
        f"A falling curve of {len(points)} plans; the plan made lies at {place}.",
        270,
    )
    plot = Plot(
        drawing,
        (0.0, max(x for x, _ in points) * 1.03),
        (0.0, max(*(y for _, y in points), chosen["damage"]) * 1.03 or 1.0),
        "milliseconds, predicted" if timed else "share of the layers' parameters",
        "sensitivity, nats per token",
    )
    if target is not None:
        plot.upright("target", target)
    _curve(plot, points, lambda number, x, y: f"plan {number}: {_cost(x, timed)}, {y:.3g} nats per token")
    x, y = plot.at(chosen["cost"], chosen["damage"])
    drawing.diamond("chosen", x, y, tip=f"the plan made: {place}")
    drawing.text(x + 10, y - 8, "made", "strong")
    return drawing.markup


def standalone(title: str, points: Sequence[Point]) -> str:
    """Returns the front as an SVG file with its own style sheet.

    Args:
        title: The title.
        points: (milliseconds, KL in nats per token), fastest first; both axes start at zero.
    """
    drawing = Drawing(title, f"A falling curve of {len(points)} plans.", 270)
    plot = Plot(
        drawing,
        (0.0, max((x for x, _ in points), default=1.0) * 1.03),
        (0.0, max((y for _, y in points), default=1.0) * 1.03 or 1.0),
        "milliseconds",
        "KL to dense, nats per token, before the final reconstruction",
    )
    _curve(plot, points, lambda number, x, y: f"plan {number:02d}: {x:.4g} ms, {y:.4g} nats per token")
    return drawing.file()


def _curve(plot: Plot, points: Sequence[Point], tip: Callable[[int, float, float], str]) -> None:
    """Draws the plans, joined by a line; `tip` makes each plan's tooltip from its number and point."""
    plot.drawing.line("front", [plot.at(*point) for point in points])
    for number, point in enumerate(points, 1):
        plot.drawing.dot("front", *plot.at(*point), tip=tip(number, *point))
