"""The section on the uneven shape: the widths of every layer, against dense."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from lathe.compressor.report.page.drawing import COLUMNS, LAYERS_TOP, Drawing
from lathe.compressor.report.page.section import Facts, Key, Section, Table, command, percent
from lathe.compressor.report.wording import channel_count, channels

_MANY = 40


def section(facts: Facts) -> Section:
    """Returns the section."""
    report = facts.report
    layers, dense = report["layers"], report["dense_layer"]
    return Section(
        "shape",
        "What is left of each layer",
        "One row is one layer of the model. The pale bars are dense, the coloured ones what the subnet "
        "keeps: attention heads, in groups that share a key-value head, and channels of the feed-forward "
        "block (FFN). "
        f"{percent(report['decoder_parameters_kept'])} of the layers' parameters are kept.",
        command("lathe", "inspect", facts.out),
        figures=[_figure(layers, dense)],
        keys=[Key("attention", "heads kept"), Key("ffn", "channels kept"), Key("track", "dense")],
        table=Table(
            "Widths of every layer, subnet of dense",
            ("layer", "query heads", "KV heads", "FFN channels"),
            [
                (
                    str(i),
                    *(f"{layer[n]} of {dense[n]}" for n in ("query_heads", "kv_heads")),
                    f"{channels(layer)} of {channels(dense)}",
                )
                for i, layer in enumerate(layers)
            ],
        ),
    )


def _figure(layers: list[dict[str, int]], dense: Mapping[str, Any]) -> Markup:
    row = 16.0 if len(layers) <= _MANY else 10.0
    drawing = Drawing(
        "Widths kept in each layer",
        f"{len(layers)} layers; the table below has the numbers.",
        LAYERS_TOP + row * len(layers) + 4,
    )
    drawing.text(COLUMNS["attention"][0], 14, f"attention: {dense['query_heads']} heads")
    drawing.text(COLUMNS["ffn"][0], 14, f"FFN: {channels(dense, ',')} channels")
    for index, layer in enumerate(layers):
        top = LAYERS_TOP + row * index
        drawing.text(COLUMNS["attention"][0] - 6, top + row - 4, str(index), "tick", "end")
        _heads(drawing, top, row - 3, layer, dense)
        _channels(drawing, top, row - 3, layer, dense)
    return drawing.markup


def _heads(
    drawing: Drawing, top: float, height: float, layer: Mapping[str, int], dense: Mapping[str, Any]
) -> None:
    left, width = COLUMNS["attention"]
    tip = f"{layer['query_heads']} of {dense['query_heads']} query heads, {layer['kv_heads']} KV heads"
    drawing.box("track" if layer["kv_heads"] else "track dropped", left, top, width, height, tip)
    if not layer["kv_heads"]:
        return
    group = width * layer["query_heads"] / dense["query_heads"] / layer["kv_heads"]
    gap = min(2.0, group / 4)
    for number in range(layer["kv_heads"]):
        drawing.box("attention", left + group * number, top, group - gap, height, tip)


def _channels(
    drawing: Drawing, top: float, height: float, layer: Mapping[str, int], dense: Mapping[str, Any]
) -> None:
    left, width = COLUMNS["ffn"]
    tip = f"{channels(layer, ',')} of {channels(dense, ',')} FFN channels"
    drawing.box("track" if layer["ffn"] else "track dropped", left, top, width, height, tip)
    if layer["ffn"]:
        drawing.box("ffn", left, top, width * channel_count(layer) / channel_count(dense), height, tip)
