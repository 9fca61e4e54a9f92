"""The section on the uneven shape: the widths of every layer against dense, and the bits of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from lathe.artefact.plan import BLOCK_KINDS, BlockKind
from lathe.artefact.report_format import Report
from lathe.compressor.report.page.drawing import COLUMNS, LAYERS_TOP, Drawing
from lathe.compressor.report.page.section import Facts, Key, Section, Table, command, percent
from lathe.compressor.report.wording import bits_in, bits_of, channel_count, channels, floats_of, format_of

_MANY = 40


def section(facts: Facts) -> Section:
    """Returns the section."""
    report = facts.report
    layers, dense, formats = report["layers"], report["dense_layer"], bits_in(report)
    return Section(
        "shape",
        "What is left of each layer",
        "One row is one layer of the model. The pale bars are dense, the coloured ones what the subnet "
        "keeps: attention heads, in groups that share a key-value head, and channels of the feed-forward "
        "block (FFN). "
        f"{percent(report['decoder_parameters_kept'])} of the layers' parameters are kept.",
        command("lathe", "inspect", facts.out),
        figures=[_figure(layers, dense)],
        keys=[
            Key("attention", "heads kept"),
            Key("ffn", "channels kept"),
            Key("track", "dense"),
            *(Key(_css("attention", bits), f"weights in {format_of(bits)}") for bits in formats if bits),
        ],
        table=_table(report),
        notes=_notes(report) if formats else [],
    )


def _notes(report: Report) -> list[str]:
    floats = floats_of(report)
    return [
        f"Blocks in full colour have weights of {floats}; the fewer the bits, the paler the block. Embedding "
        f"and head: {format_of(report.get('head_bits', 0), floats)}."
    ]


def _table(report: Report) -> Table:
    """Returns widths, and where weights are rounded their formats; a dropped block has none."""
    dense, rounded = report["dense_layer"], bool(bits_in(report))
    rows = [
        (
            str(index),
            *(f"{layer[name]} of {dense[name]}" for name in ("query_heads", "kv_heads")),
            f"{channels(layer)} of {channels(dense)}",
            *(_format(layer, kind, floats_of(report)) for kind in BLOCK_KINDS if rounded),
        )
        for index, layer in enumerate(report["layers"])
    ]
    head = ("layer", "query heads", "KV heads", "FFN channels")
    bits = ("attention weights", "FFN weights") if rounded else ()
    return Table("Widths of every layer, subnet of dense", (*head, *bits), rows)


def _format(layer: Mapping[str, int], kind: BlockKind, floats: str) -> str:
    width = layer["kv_heads"] if kind == "attention" else layer["ffn"]
    return format_of(bits_of(layer, kind), floats) if width else "–"


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
    tip += _in_bits(layer, "attention")
    drawing.box("track" if layer["kv_heads"] else "track dropped", left, top, width, height, tip)
    if not layer["kv_heads"]:
        return
    group = width * layer["query_heads"] / dense["query_heads"] / layer["kv_heads"]
    gap, css = min(2.0, group / 4), _css("attention", bits_of(layer, "attention"))
    for number in range(layer["kv_heads"]):
        drawing.box(css, left + group * number, top, group - gap, height, tip)


def _channels(
    drawing: Drawing, top: float, height: float, layer: Mapping[str, int], dense: Mapping[str, Any]
) -> None:
    left, width = COLUMNS["ffn"]
    tip = f"{channels(layer, ',')} of {channels(dense, ',')} FFN channels{_in_bits(layer, 'ffn')}"
    drawing.box("track" if layer["ffn"] else "track dropped", left, top, width, height, tip)
    if layer["ffn"]:
        css = _css("ffn", bits_of(layer, "ffn"))
        drawing.box(css, left, top, width * channel_count(layer) / channel_count(dense), height, tip)


def _css(kind: BlockKind, bits: int) -> str:
    return f"{kind} bits-{bits}" if bits else kind


def _in_bits(layer: Mapping[str, int], kind: BlockKind) -> str:
    bits = bits_of(layer, kind)
    return f", weights in {format_of(bits)}" if bits else ""
