"""The section on the cost of quantization, apart from that of pruning."""

from __future__ import annotations

from typing import Literal

from markupsafe import Markup

from lathe.artefact.report_format import DenseAndSubnet, FormatFacts, Quantization, RelativeError
from lathe.compressor.report.page.drawing import Drawing
from lathe.compressor.report.page.section import Facts, Key, Section, Table, percent

_MODELS: tuple[Literal["dense", "subnet"], ...] = ("dense", "subnet")
_LEFT, _WIDTH, _ROW = 112.0, 214.0, 30.0


def section(facts: Facts) -> Section | None:
    """Returns the section; None where nothing is quantized, or its cost was not measured."""
    stored = facts.report.get("quantization")
    if not stored or "perplexity" not in stored:
        return None
    scheme, size = stored["scheme"], stored["weight_bytes"]
    before, after = facts.report["perplexity"], stored["perplexity"]
    return Section(
        "stored",
        f"What {'mixed precision' if 'formats' in stored else scheme} costs",
        f"Perplexity before and after the weights were quantized. {_dense(stored)} Latencies on this page "
        "are those of the quantized graphs; what the models write is from before quantization.",
        str(facts.report["command"]),
        figures=[_bars(before, after, scheme)],
        keys=[Key(model, model) for model in _MODELS],
        table=Table(
            f"Perplexity before and after {scheme}",
            ("model", "before", "after", "change"),
            [
                (
                    model,
                    f"{before[model]:.3f}",
                    f"{after[model]:.3f}",
                    f"{100 * (after[model] / before[model] - 1):+.1f} %",
                )
                for model in _MODELS
            ],
        ),
        notes=[
            f"The subnet's weights take {size['after'] / 2**20:,.2f} MiB, {size['before'] / 2**20:,.2f} as "
            f"float32. Quantization moved its matrices by {_moved(stored['relative_error'])}.",
            *(_matrices(name, facts) for name, facts in stored.get("formats", {}).items()),
        ],
    )


def _dense(stored: Quantization) -> str:
    """Returns a sentence about what the dense model is stored as."""
    if "formats" in stored:
        return "The dense model stays as it is."
    return (
        "The dense model is quantized, too, by rounding to nearest, so that the cost of pruning is not taken "
        "for the cost of quantization."
    )


def _moved(error: RelativeError) -> str:
    return f"{percent(error['median'])} of their norm (median) to {percent(error['max'])}"


def _matrices(name: str, facts: FormatFacts) -> str:
    """Returns a sentence about the matrices of one of several formats."""
    moved = f", moved by {_moved(facts['relative_error'])}" if "relative_error" in facts else ""
    return f"{facts['matrices']} of its matrices are {name}{moved}."


def _bars(before: DenseAndSubnet, after: DenseAndSubnet, scheme: str) -> Markup:
    rows = [
        (model, name, values[model])
        for model in _MODELS
        for name, values in ((model, before), (f"{model}, {scheme}", after))
    ]
    drawing = Drawing(
        f"Perplexity before and after {scheme}",
        "; ".join(f"{name}: {value:.4g}" for _, name, value in rows),
        _ROW * len(rows) + 10,
    )
    most = max(value for _, _, value in rows)
    for number, (model, name, value) in enumerate(rows):
        top = 8 + _ROW * number
        width = _WIDTH * value / most
        drawing.text(_LEFT - 8, top + 15, name, "label", "end")
        drawing.box(model, _LEFT, top, width, 20, f"{name}: {value:.4g}")
        drawing.text(_LEFT + width + 6, top + 15, f"{value:.4g}", "strong")
    return drawing.markup
