"""The section on where the milliseconds go: by kind of work, and layer by layer."""

from __future__ import annotations

from collections.abc import Mapping

from markupsafe import Markup

from lathe.artefact.report_format import LatencyParts, PartsOfLatency
from lathe.compressor.report.page.drawing import Drawing, Plot
from lathe.compressor.report.page.section import Facts, Key, Section, Table, command
from lathe.compressor.report.wording import limit_of_pruning, sentence

_KINDS = (("step", "everything else"), ("head", "head"), ("attention", "attention"), ("ffn", "FFN"))
_LEFT, _WIDTH = 62.0, 266.0


def section(facts: Facts) -> Section | None:
    """Returns the section; None in a report without a latency table."""
    parts = facts.latency.get("parts_ms")
    if not parts:
        return None
    sums = {"dense": _sums(parts["dense"]), "subnet": _sums(parts["subnet"])}
    return Section(
        "parts",
        "Where the milliseconds go",
        f"{facts.metric.capitalize()} of the dense model and of the subnet, split by the latency table. It "
        "is fitted to timings of whole models of different widths, so a part is what a block adds inside a "
        "running model.",
        command("lathe", "profile", facts.model, *facts.workload, "-o", "here.json"),
        figures=[_bars(sums), _layers(parts)],
        notes=_notes(facts),
        keys=[Key(kind, name) for kind, name in _KINDS] + [Key("outline", "dense, the whole layer")],
        table=Table(
            "Milliseconds by part",
            ("part", "dense", "subnet", "saved"),
            [
                (
                    name,
                    f"{sums['dense'][kind]:.3f}",
                    f"{sums['subnet'][kind]:.3f}",
                    f"{sums['dense'][kind] - sums['subnet'][kind]:.3f}",
                )
                for kind, name in (*_KINDS, ("total", "total"))
            ],
        ),
    )


def _notes(facts: Facts) -> list[str]:
    limit = facts.latency.get("pruning_limit")
    return [sentence(limit_of_pruning(limit))] if limit else []


def _sums(part: PartsOfLatency) -> dict[str, float]:
    found = {
        "step": part["step"],
        "head": part.get("head", 0.0),
        "attention": sum(part["attention"]),
        "ffn": sum(part["ffn"]),
    }
    return {**found, "total": sum(found.values())}


def _bars(sums: Mapping[str, Mapping[str, float]]) -> Markup:
    most = max(total["total"] for total in sums.values()) or 1.0
    drawing = Drawing(
        "Milliseconds by kind of work",
        "; ".join(
            f"{model}: " + ", ".join(f"{name} {total[kind]:.3g} ms" for kind, name in _KINDS)
            for model, total in sums.items()
        ),
        92,
    )
    for number, (model, total) in enumerate(sums.items()):
        top, left = 8 + 42.0 * number, _LEFT
        drawing.text(_LEFT - 8, top + 20, model, "label", "end")
        for kind, name in _KINDS:
            width = _WIDTH * total[kind] / most
            drawing.box(kind, left, top, width - 1, 30, f"{name}: {total[kind]:.3g} ms")
            left += width
        drawing.text(left + 6, top + 20, f"{total['total']:.3g}", "strong")
    return drawing.markup


def _layers(parts: LatencyParts) -> Markup:
    dense, subnet = parts["dense"], parts["subnet"]
    whole = [a + f for a, f in zip(dense["attention"], dense["ffn"], strict=True)]
    count, most = len(whole), max(whole) or 1.0
    drawing = Drawing(
        "Milliseconds by layer", f"{count} layers, dense as an outline behind the subnet's columns.", 220
    )
    plot = Plot(drawing, (-0.5, count - 0.5), (0.0, most * 1.05), "layer", "ms in a layer")
    step = plot.at(1, 0)[0] - plot.at(0, 0)[0]
    width = min(30.0, step * 0.72)
    for index, (attention, ffn) in enumerate(zip(subnet["attention"], subnet["ffn"], strict=True)):
        x, floor = plot.at(index, 0)
        left, tip = x - width / 2, f"layer {index}: attention {attention:.3g} ms, FFN {ffn:.3g} ms"
        for css, value, height in (
            ("outline", whole[index], whole[index]),
            ("ffn", attention + ffn, ffn),
            ("attention", attention, attention),
        ):
            top = plot.at(index, value)[1]
            drawing.box(css, left, top, width, floor - plot.at(index, height)[1], tip)
    return drawing.markup
