"""The section on the search: the sensitivity of each block, and how the best evaluated plan improved."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from lathe.artefact.plan import BLOCK_KINDS
from lathe.compressor.report.page.drawing import COLUMNS, LAYERS_TOP, Drawing, Plot
from lathe.compressor.report.page.section import Facts, Key, Section, Table
from lathe.compressor.report.wording import format_of

Width = tuple[int, ...]
Sensitivities = dict[tuple[int, str], dict[Width, float]]
Rounding = dict[int, dict[tuple[int, str], float]]
_ROW = 16.0
_SHADES = 5


def section(facts: Facts) -> Section | None:
    """Returns the section; None for an artefact without a trace."""
    if not facts.trace:
        return None
    sensitivities, plans = _sensitivities(facts.trace), _plans(facts.trace)
    seconds = float(facts.trace[-1].get("seconds", 0.0))
    figures, keys, lead = [], [], f"{len(facts.trace)} evaluations in {seconds:.0f} s."
    if sensitivities:
        figures.append(_heat(sensitivities, facts.report["layers"]))
        keys = [
            Key("heat-1", "low sensitivity"),
            Key(f"heat-{_SHADES}", "high sensitivity"),
            Key("kept", "kept"),
        ]
        keys.insert(0, Key("whole", "not pruned"))
        lead += (
            " Each cell is one block pruned alone, narrower to the right: the darker, the further the "
            "model's predictions move from dense. The search prunes where that is least."
        )
    if len(plans) > 2:
        figures.append(_progress(plans))
        lead += " The line is the best whole plan so far."
    if heldout := _heldout(facts.trace):
        figures.append(_steps(heldout))
        lead += " By step: the mask of that time, on text that the search is not fitted to."
    return Section(
        "search",
        "How the plan was found",
        lead,
        str(facts.report["command"]),
        figures=figures,
        keys=keys,
        table=_table(facts, sensitivities) if sensitivities else None,
        notes=["Every evaluation is in trace.jsonl, next to report.json."],
    )


_HELDOUT = "heldout "
_OF_NO_PLAN = ("damage ", "rounding ", "mask ", _HELDOUT)
"""How the keys of evaluations begin that are of single blocks, or of masks on the way to a plan."""


def _sensitivities(trace: Sequence[Mapping[str, Any]]) -> Sensitivities:
    """Returns KL in nats per token of each (layer, block) at each width evaluated."""
    found: Sensitivities = {}
    for row in trace:
        if "kept" in row:
            kept = row["kept"]
            width = tuple(kept) if isinstance(kept, list) else (kept,)
            found.setdefault((row["layer"], row["block"]), {})[width] = max(0.0, row["value"])
    return found


def _rounding(trace: Sequence[Mapping[str, Any]]) -> Rounding:
    """Returns KL in nats per token of each (layer, block) rounded to each number of bits, the most first."""
    found: Rounding = {}
    for row in trace:
        if str(row["key"]).startswith("rounding ") and "layer" in row:
            bits = int(row["key"].split()[-1])
            found.setdefault(bits, {})[row["layer"], row["block"]] = row["value"]
    return dict(sorted(found.items(), reverse=True))


def _plans(trace: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """Returns (seconds, value) of the evaluations of whole plans, in stages those on the most text."""
    plans = [(i, row) for i, row in enumerate(trace) if not str(row["key"]).startswith(_OF_NO_PLAN)]
    last = max((row.get("stage", 0) for _, row in plans), default=0)
    return [
        (float(row.get("seconds", i)), float(row["value"])) for i, row in plans if row.get("stage", 0) == last
    ]


def _heldout(trace: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """Returns (step, KL on held-out text) of the last search over masks, that it starts from first."""
    rows = [(str(row["key"]).split(), row) for row in trace if str(row["key"]).startswith(_HELDOUT)]
    return [(float(row["step"]), float(row["value"])) for key, row in rows if key[1] == rows[-1][0][1]]


def _kept(layer: Mapping[str, int], block: str) -> Width:
    if block == "attention":
        return layer["query_heads"], layer["kv_heads"]
    return (layer["experts"], layer["ffn"]) if "experts" in layer else (layer["ffn"],)


def _heat(sensitivities: Sensitivities, layers: Sequence[Mapping[str, int]]) -> Markup:
    drawing = Drawing(
        "Sensitivity of each block at each width, pruned alone",
        f"{len(layers)} layers; the table below has the sensitivity of dropping each block.",
        LAYERS_TOP + _ROW * len(layers) + 8,
    )
    positive = [value for row in sensitivities.values() for value in row.values() if value > 0]
    low, high = (math.log(bound) for bound in (min(positive, default=1.0), max(positive, default=1.0)))
    for block, (left, _) in COLUMNS.items():
        drawing.text(left, 14, "attention narrower →" if block == "attention" else "FFN narrower →")
    for index, layer in enumerate(layers):
        top = LAYERS_TOP + _ROW * index
        drawing.text(28, top + 12, str(index), "tick", "end")
        for block, (left, width) in COLUMNS.items():
            row = sensitivities.get((index, block), {})
            step = width / (1 + len(row))
            drawing.box("whole", left, top, step - 0.8, _ROW - 2, f"layer {index}, {block} not pruned")
            for number, (kept, value) in enumerate(row.items(), 1):
                depth = (math.log(value) - low) / (high - low or 1.0) if value > 0 else 0.0
                css = f"heat-{1 + min(_SHADES - 1, max(0, int(_SHADES * depth)))}"
                tip = f"layer {index}, {block} of {_name(kept, block)}: {value:.3g} nats per token"
                drawing.box(css, left + step * number, top, step - 0.8, _ROW - 2, tip)
            kept = _kept(layer, block)
            place = left + step * (_column(list(row), kept) + 0.5)
            drawing.dot("kept", place, top + _ROW / 2 - 1, 3.2, f"kept: {_name(kept, block)}")
    return drawing.markup


def _column(evaluated: list[Width], kept: Width) -> float:
    """Returns the column of a width: 0 is dense, then those evaluated; others lie between two of them."""
    if kept in evaluated:
        return evaluated.index(kept) + 1.0
    wider = sum(width > kept for width in evaluated)
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


def _steps(heldout: Sequence[tuple[float, float]]) -> Markup:
    drawing = Drawing(
        "Held-out KL by step",
        f"From {heldout[0][1]:.4g} for the mask it starts from to {heldout[-1][1]:.4g} nats per token, as "
        "masks on the dense model, before reconstruction.",
        220,
    )
    most = 1.05 * max(value for _, value in heldout) or 1.0
    plot = Plot(drawing, (0.0, heldout[-1][0] or 1.0), (0.0, most), "steps", "KL, nats per token")
    drawing.line("front", [plot.at(*point) for point in heldout])
    return drawing.markup


def _table(facts: Facts, sensitivities: Sensitivities) -> Table:
    """Returns what pruning does, and what rounding does where that was measured."""
    rounding, layers = _rounding(facts.trace), facts.report["layers"]
    of_rounding = ", and of rounding the dense block" if rounding else ""
    return Table(
        "Sensitivity in nats per token, of the chosen width where it was evaluated and of dropping the block"
        + of_rounding,
        (
            *("layer", "attention chosen", "attention dropped", "FFN chosen", "FFN dropped"),
            *(f"{name}, {format_of(bits)}" for bits in rounding for name in ("attention", "FFN")),
        ),
        [
            (
                str(index),
                *(
                    _value(sensitivities.get((index, block), {}), width)
                    for block, dropped in (("attention", (0, 0)), ("ffn", (0,)))
                    for width in (_kept(layer, block), dropped)
                ),
                *(f"{found[index, block]:.2g}" for found in rounding.values() for block in BLOCK_KINDS),
            )
            for index, layer in enumerate(layers)
        ],
    )


def _value(row: Mapping[Width, float], width: Width) -> str:
    return f"{row[width]:.4f}" if width in row else "–"
