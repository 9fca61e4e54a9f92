"""family.html: the subnets of a family in one picture: widths by layer, loss against milliseconds, bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from lathe.artefact.atomic_files import write_bytes
from lathe.artefact.family import FAMILY, Family, read_family
from lathe.artefact.manifest import read_json
from lathe.artefact.report_format import Report
from lathe.compressor.report.page import environment, read_report
from lathe.compressor.report.page.drawing import COLUMNS, LAYERS_TOP, Drawing, Plot
from lathe.compressor.report.page.section import Key, Section, Table, command
from lathe.compressor.report.wording import channel_count, channels

FAMILY_PAGE = "family.html"
_ROW = 14.0
_SHADES = 5


def write_family_page(directory: Path, page: Path, out: str | None = None) -> None:
    """Writes the page of a family.

    Args:
        directory: The family's directory.
        page: The file to write.
        out: The directory as commands on the page name it.

    Raises:
        UserError: the family or a report cannot be read, or the page not be written.
    """
    family = read_family(directory)
    reports = {plan.name: read_report(family.directory(plan)) for plan in family.plans}
    sections = [_widths(reports, out or str(directory)), _losses(family, reports, out or str(directory))]
    text = (
        environment()
        .get_template("family.html")
        .render(
            name=next(iter(reports.values()))["model"]["name"],
            subnets=", ".join(reports),
            stored=_stored(read_json(directory / FAMILY).get("bytes")),
            sections=sections,
        )
    )
    write_bytes(page, text.encode())


def _stored(bytes_of: Mapping[str, int] | None) -> str:
    """Returns a sentence about what is stored once; empty where nothing is known."""
    if not bytes_of:
        return ""
    together, apart = (bytes_of[name] / 2**20 for name in ("together", "apart"))
    return (
        f"All subnets take {together:.1f} MiB together, and {apart:.1f} MiB apart ({together / apart:.0%})."
    )


def _shade(number: int, count: int) -> str:
    """Returns the CSS class of a subnet: the narrower, the darker."""
    return f"heat-{1 + round((_SHADES - 1) * (number + 1) / count)}"


def _widths(reports: Mapping[str, Report], out: str) -> Section:
    rows = [
        (str(index), *(_width(layer) for layer in layers))
        for index, layers in enumerate(zip(*(report["layers"] for report in reports.values()), strict=True))
    ]
    return Section(
        "shape",
        "What each subnet keeps of each layer",
        "One row is one layer: query heads of attention, and channels of the feed-forward block. The "
        "narrower a subnet, the darker; what is left pale is what only wider ones, or the dense model, have.",
        command("lathe", "inspect", out),
        figures=[_figure([*reports.values()])],
        keys=[Key(_shade(number, len(reports)), name) for number, name in enumerate(reports)],
        table=Table("Query heads over KV heads, FFN channels", ("layer", *reports), rows),
    )


def _width(layer: Mapping[str, int]) -> str:
    return f"{layer['query_heads']}/{layer['kv_heads']}, {channels(layer) if layer['ffn'] else 0}"


def _figure(reports: Sequence[Report]) -> Markup:
    dense, count = reports[0]["dense_layer"], len(reports[0]["layers"])
    drawing = Drawing(
        "Widths kept in each layer by each subnet",
        f"{count} layers; the table below has the numbers.",
        LAYERS_TOP + _ROW * count + 4,
    )
    drawing.text(COLUMNS["attention"][0], 14, f"attention: {dense['query_heads']} heads")
    drawing.text(COLUMNS["ffn"][0], 14, f"FFN: {channels(dense, ',')} channels")
    for index in range(count):
        top = LAYERS_TOP + _ROW * index
        drawing.text(COLUMNS["attention"][0] - 6, top + _ROW - 4, str(index), "tick", "end")
        for left, width in COLUMNS.values():
            drawing.box("track", left, top, width, _ROW - 3)
        for number, report in enumerate(reports):
            layer, css = report["layers"][index], _shade(number, len(reports))
            shares = (
                layer["query_heads"] / dense["query_heads"],
                channel_count(layer) / channel_count(dense) if layer["ffn"] else 0.0,
            )
            for (left, width), share in zip(COLUMNS.values(), shares, strict=True):
                drawing.box(css, left, top, width * share, _ROW - 3)
    return drawing.markup


def _losses(family: Family, reports: Mapping[str, Report], out: str) -> Section:
    metric = next(iter(reports.values()))["latency"]["metric"]
    points = [(plan.name, plan.measured_ms or plan.predicted_ms, plan.loss_increase) for plan in family.plans]
    rows = [
        (name, *map(_number, (reports[name]["latency"]["target_ms"], ms, loss))) for name, ms, loss in points
    ]
    known = [(name, ms, loss) for name, ms, loss in points if ms is not None and loss is not None]
    return Section(
        "losses",
        "Loss against latency",
        "Each mark is a subnet, as its graph is served. Lower is closer to the dense model, further left "
        "faster.",
        command("lathe", "inspect", out),
        figures=[_plot(known, metric)] if known else [],
        table=Table(
            "Latency and loss over the dense model",
            ("subnet", "target ms", f"{metric} ms", "nats per token"),
            rows,
        ),
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _plot(points: Sequence[tuple[str, float, float]], metric: str) -> Markup:
    drawing = Drawing("Loss against latency", f"{len(points)} subnets; the table below has the numbers.", 270)
    plot = Plot(
        drawing,
        (0.0, max(ms for _, ms, _ in points) * 1.15),
        (min(0.0, *(loss for *_, loss in points)), max(loss for *_, loss in points) * 1.1 or 1.0),
        f"{metric}, milliseconds",
        "loss over dense, nats per token",
    )
    drawing.line("front", [plot.at(ms, loss) for _, ms, loss in points])
    for name, ms, loss in points:
        x, y = plot.at(ms, loss)
        drawing.diamond("chosen", x, y, tip=f"{name}: {ms:.4g} ms, {loss:.3g} nats per token")
        drawing.text(x + 10, y - 8, name, "strong")
    return drawing.markup
