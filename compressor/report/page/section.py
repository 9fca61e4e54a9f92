"""A section of the page: a question, the figure that answers it, the same as a table, and its command."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from lathe.artefact.report_format import DenseAndSubnet, LatencyFacts, Report

Row = Sequence[str]
_USUAL = ["checkpoint", "onnx"]
_MIXED = "onnx-mixed"
_BACKENDS = {"onnx": (), _MIXED: (), f"{_MIXED}-kv8": ("--kv-cache", "int8")}
"""Options that stand for a backend, beside those for what is written; of others, the name is the option."""
_METRICS = {"tpot": "time per output token", "ttft": "time to first token", "e2e": "time of a whole request"}


@dataclass(frozen=True)
class Table:
    """A table of text; the first column names the row."""

    caption: str
    head: Row
    rows: Sequence[Row]


@dataclass(frozen=True)
class Key:
    """A mark of the figures and what it stands for; `css` is the class of its swatch."""

    css: str
    meaning: str


@dataclass(frozen=True)
class Section:
    """One section.

    Attributes:
        id: Its anchor.
        title: Its title.
        lead: How to read the figures, in a sentence or two.
        command: The command that makes the figures again.
        figures: Drawings.
        keys: The marks of the figures.
        table: The figures as a table.
        notes: Remarks below the figures.
    """

    id: str
    title: str
    lead: str
    command: str
    figures: Sequence[Markup] = ()
    keys: Sequence[Key] = ()
    table: Table | None = None
    notes: Sequence[str] = field(default_factory=list)


@dataclass(frozen=True)
class Facts:
    """The input of sections.

    Attributes:
        report: The report.
        trace: The evaluations of the search, oldest first.
        out: The artefact's directory, as commands name it.
    """

    report: Report
    trace: Sequence[Mapping[str, Any]]
    out: str

    @property
    def latency(self) -> LatencyFacts:
        """The report's latency."""
        return self.report["latency"]

    @property
    def medians(self) -> DenseAndSubnet | None:
        """The measured milliseconds; None where the artefact was not timed."""
        dense, subnet = self.latency.get("dense_ms"), self.latency.get("measured_ms")
        return None if dense is None or subnet is None else {"dense": dense, "subnet": subnet}

    @property
    def model(self) -> str:
        """The dense model, as commands name it."""
        return str(self.report["model"]["path"])

    @property
    def metric(self) -> str:
        """The latency that was asked for, in words."""
        return _METRICS[self.latency["metric"]]

    @property
    def workload(self) -> list[str]:
        """The options for what is timed, and on which backend."""
        asked = self.latency
        words = [
            "--latency-metric",
            asked["metric"],
            "--batch-size",
            str(asked["batch_size"]),
            "--context",
            str(asked["context"]),
        ]
        if asked["metric"] == "e2e":
            words += ["--output-tokens", str(asked["output_tokens"])]
        backend = asked.get("backend", "onnx")
        words += _BACKENDS.get(backend, ("--backend", backend))
        return words + (["--threads", str(asked["threads"])] if asked.get("threads") else [])

    @property
    def exports(self) -> list[str]:
        """The options for what is written, where they are not the default of every command."""
        asked = self.report.get("served", {}).get("exports", _USUAL)
        if _MIXED in asked:
            return ["--bits", "auto"]
        return [] if asked == _USUAL else ["--export", ",".join(asked)]

    @property
    def text(self) -> list[str]:
        """The options for the calibration text."""
        asked = self.report["calibration"]
        tokens = asked.get("asked_tokens", asked["tokens"])
        return ["--calibration", asked["text"], "--calibration-tokens", str(tokens)]


def command(*words: object) -> str:
    """Returns a line for a shell."""
    return shlex.join(map(str, words))


def ms(value: float | None) -> str:
    """Returns milliseconds in words."""
    return "–" if value is None else f"{value:.3g} ms"


def percent(value: float) -> str:
    """Returns a share as a percentage."""
    return f"{100 * value:.1f} %"
