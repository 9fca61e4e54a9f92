"""The section on predicted and measured latency, and on the iterations that led to the plan."""

from __future__ import annotations

from typing import Literal

from markupsafe import Markup

from lathe.artefact.report_format import DenseAndSubnet, LatencyFacts, Repeats
from lathe.compressor.report.page.drawing import WIDTH, Drawing, share, ticks
from lathe.compressor.report.page.section import Facts, Key, Section, Table, command, ms, percent

_MODELS: tuple[Literal["dense", "subnet"], ...] = ("dense", "subnet")
_LEFT, _RIGHT, _ROW = 74.0, 14.0, 44.0


def section(facts: Facts) -> Section | None:
    """Returns the section; None in a report of an artefact that was not timed."""
    latency, medians, repeats = facts.latency, facts.medians, facts.latency.get("turns_ms")
    if medians is None or repeats is None:
        return None
    where = f"batch {latency['batch_size']}, context {latency['context']}"
    lead = (
        f"The finished artefact and dense, timed interleaved: {latency['definition']} ({where}). A dot is "
        "one repeat, the bar the median."
    )
    if predicted := latency.get("predicted_ms"):
        off = medians["subnet"] / predicted - 1
        lead += f" The measurement is {abs(off):.1%} {'above' if off > 0 else 'below'} the prediction."
    return Section(
        "latency",
        "Predicted and measured",
        lead,
        command(
            "compress",
            facts.model,
            "--plan",
            f"{facts.out}/plan.json",
            *facts.workload,
            *facts.exports,
            "-o",
            "again",
        ),
        figures=[_figure(latency, medians, repeats)],
        keys=_keys(latency),
        table=_table(latency),
        notes=_notes(latency, facts),
    )


def _keys(latency: LatencyFacts) -> list[Key]:
    keys = [Key("dense", "a repeat, dense"), Key("subnet", "a repeat, subnet")]
    if latency.get("predicted_ms"):
        keys.append(Key("predicted", "predicted"))
    return [*keys, Key("target", "target")] if latency.get("target_ms") else keys


def _figure(latency: LatencyFacts, medians: DenseAndSubnet, repeats: Repeats) -> Markup:
    predicted, target = latency.get("predicted_ms"), latency.get("target_ms")
    values = [*repeats["dense"], *repeats["subnet"], *(mark for mark in (predicted, target) if mark)]
    pad = 0.06 * (max(values) - min(values) or max(values))
    span = (max(0.0, min(values) - pad), max(values) + pad)
    drawing = Drawing(
        "Measured repeats, prediction and target",
        f"dense median {ms(medians['dense'])}, subnet median {ms(medians['subnet'])}, "
        f"predicted {ms(predicted)}, target {ms(target)}",
        2 * _ROW + 46,
    )

    def at(value: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * share(value, span)

    floor = 2 * _ROW + 8
    for value in ticks(span):
        drawing.line("grid", [(at(value), 6), (at(value), floor)])
        drawing.text(at(value), floor + 15, f"{value:g}", "tick", "middle")
    drawing.text((_LEFT + WIDTH) / 2, floor + 32, "milliseconds", "label", "middle")
    if target:
        drawing.line("target", [(at(target), 6), (at(target), floor)])
    for number, name in enumerate(_MODELS):
        middle, median = 8 + _ROW * (number + 0.5), medians[name]
        drawing.text(_LEFT - 10, middle + 4, name, "label", "end")
        for repeat in repeats[name]:
            drawing.dot(f"{name} repeat", at(repeat), middle, 4, f"{repeat:.4g} ms")
        drawing.box(name, at(median) - 1.5, middle - 14, 3, 28, f"median {median:.4g} ms")
    if predicted:
        drawing.diamond("predicted", at(predicted), 8 + _ROW * 1.5, 6, f"predicted {predicted:.4g} ms")
    return drawing.markup


def _table(latency: LatencyFacts) -> Table:
    rounds = latency.get("rounds") or []
    rows = [
        (
            str(number),
            ms(row["limit_ms"]),
            ms(row["predicted_ms"]),
            ms(row["measured_ms"]),
            ms(row.get("artefact_ms")),
            f"{row['fitness']:.4f}",
        )
        for number, row in enumerate(rounds, 1)
    ]
    head = ("round", "limit", "predicted", "measured as a plan", "as an artefact", "KL, nats per token")
    return Table("Rounds of search and measurement", head, rows)


def _notes(latency: LatencyFacts, facts: Facts) -> list[str]:
    served = command("lathe", "loadtest", facts.out, "--against", facts.model)
    notes = [f"As served, to several clients: {served}"]
    spread, precision = latency.get("spread"), latency.get("precision")
    if spread:
        worst = max(spread["dense"], spread["subnet"])
        quiet = "the machine was quiet" if worst <= 0.05 else "the machine was not quiet"
        notes.append(f"Quartiles of the repeats lie up to {percent(worst)} of the median apart: {quiet}.")
    if precision:
        notes += [
            f"{name}: a standard error of {100 * error:.2g} % after {found['seconds']:.0f} s."
            for name, found in (
                ("The ratio of the artefact to dense", precision["artefact"]),
                ("The ratios behind the latency table", precision["table"]),
            )
            if found and (error := found["standard_error"]) is not None
        ]
    if latency.get("target_speedup"):
        notes.append(
            "The target is a speed-up, so it is given in milliseconds at the dense model's speed in the last "
            "measurement; the rounds show the milliseconds of their own time."
        )
    return notes
