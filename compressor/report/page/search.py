"""How the plan was found: what cutting each block costs, and how the best judged plan improved."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from lathe.compressor.report.page.drawing import COLUMNS, LAYERS_TOP, Drawing, Plot
from lathe.compressor.report.page.section import Facts, Key, Section, Table

Width = tuple[int, ...]
Damages = dict[tuple[int, str], dict[Width, float]]
_ROW = 16.0
_SHADES = 5


def section(facts: Facts) -> Section | None:
    if not facts.trace:
        return None
    damages, plans = _damages(facts.trace), _plans(facts.trace)
    seconds = float(facts.trace[-1].get("seconds", 0.0))
    figures, keys, lead = [], [], f"{len(facts.trace)} judgements in {seconds:.0f} s."
    if damages:
        figures.append(_heat(damages, facts.report["layers"]))
        keys = [Key("heat-1", "little damage"), Key(f"heat-{_SHADES}", "much damage"), Key("kept", "kept")]
        keys.insert(0, Key("whole", "not cut"))
        lead += (
            " Each cell is one block cut alone, narrower to the right: the darker, the further the model's "
            "predictions move from dense. The search spends its budget where that is least."
        )
    if len(plans) > 2:
        figures.append(_progress(plans))
        lead += " The line is the best whole plan so far."
    return Section(
        "search",
        "How the plan was found",
        lead,
        str(facts.report["command"]),
        figures=figures,
        keys=keys,
        table=_table(damages, facts.report["layers"]) if damages else None,
        notes=["Every judgement is in trace.jsonl, beside report.json."],
    )


def _damages(trace: Sequence[Mapping[str, Any]]) -> Damages:
    """KL in nats per token of each (layer, block) at each width judged."""
    found: Damages = {}
    for row in trace:
        if "layer" in row:
            kept = row["kept"]
            width = tuple(kept) if isinstance(kept, list) else (kept,)
            found.setdefault((row["layer"], row["block"]), {})[width] = max(0.0, row["value"])
    return found


def _plans(trace: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """(seconds, value) of the judgements of whole plans."""
    return [
        (float(row.get("seconds", i)), float(row["value"]))
        for i, row in enumerate(trace)
        if not str(row["key"]).startswith("damage ")
    ]


def _kept(layer: Mapping[str, int], block: str) -> Width:
    if block == "attention":
        return layer["query_heads"], layer["kv_heads"]
    return (layer["experts"], layer["ffn"]) if "experts" in layer else (layer["ffn"],)


def _heat(damages: Damages, layers: Sequence[Mapping[str, int]]) -> Markup:
    drawing = Drawing(
        "Damage of each block at each width, cut alone",
        f"{len(layers)} layers; the table below has the damage of dropping each block.",
        LAYERS_TOP + _ROW * len(layers) + 8,
    )
    positive = [value for row in damages.values() for value in row.values() if value > 0]
    low, high = (math.log(bound) for bound in (min(positive, default=1.0), max(positive, default=1.0)))
    for block, (left, _) in COLUMNS.items():
        drawing.text(left, 14, "attention narrower →" if block == "attention" else "FFN narrower →")
    for index, layer in enumerate(layers):
        top = LAYERS_TOP + _ROW * index
        drawing.text(28, top + 12, str(index), "tick", "end")
        for block, (left, width) in COLUMNS.items():
            row = damages.get((index, block), {})
            step = width / (1 + len(row))
            drawing.box("whole", left, top, step - 0.8, _ROW - 2, f"layer {index}, {block} not cut")
            for number, (kept, value) in enumerate(row.items(), 1):
                depth = (math.log(value) - low) / (high - low or 1.0) if value > 0 else 0.0
                css = f"heat-{1 + min(_SHADES - 1, max(0, int(_SHADES * depth)))}"
                tip = f"layer {index}, {block} of {_name(kept, block)}: {value:.3g} nats per token"
                drawing.box(css, left + step * number, top, step - 0.8, _ROW - 2, tip)
            kept = _kept(layer, block)
            place = left + step * (_column(list(row), kept) + 0.5)
            drawing.dot("kept", place, top + _ROW / 2 - 1, 3.2, f"kept: {_name(kept, block)}")
    return drawing.markup


def _column(judged: list[Width], kept: Width) -> float:
    """Where a width lies: 0 is not cut, then those judged; between two of them what was interpolated."""
    if kept in judged:
        return judged.index(kept) + 1.0
    wider = sum(width > kept for width in judged)
    return wider + 0.5 if wider else 0.0


def _name(kept: Width, block: str) -> str:
    if block == "attention":
        return f"{kept[0]} query and {kept[1]} KV heads"
    return f"{kept[0]} experts of {kept[1]} channels" if len(kept) == 2 else f"{kept[0]} channels"


def _progress(plans: Sequence[tuple[float, float]]) -> Markup:
    best = math.inf
    line = []
    for second, value in plans:
        best = min(best, value)
        line.append((second, best))
    drawing = Drawing(
        "Best plan so far",
        f"From {line[0][1]:.4g} to {line[-1][1]:.4g} over {len(line)} plans.",
        220,
    )
    top = max(value for _, value in line)
    plot = Plot(drawing, (0.0, line[-1][0] or 1.0), (0.0, top * 1.05 or 1.0), "seconds", "best value so far")
    drawing.line("front", [plot.at(*point) for point in line])
    return drawing.markup


def _table(damages: Damages, layers: Sequence[Mapping[str, int]]) -> Table:
    return Table(
        "Damage in nats per token: of what was chosen where it was judged, and of dropping the block",
        ("layer", "attention chosen", "attention dropped", "FFN chosen", "FFN dropped"),
        [
            (
                str(index),
                *(
                    _value(damages.get((index, block), {}), width)
                    for block, dropped in (("attention", (0, 0)), ("ffn", (0,)))
                    for width in (_kept(layer, block), dropped)
                ),
            )
            for index, layer in enumerate(layers)
        ],
    )


def _value(row: Mapping[Width, float], width: Width) -> str:
    return f"{row[width]:.4f}" if width in row else "–"
