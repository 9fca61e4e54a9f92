"""How a run ends."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from lathe.artefact.report_format import Report


class Status(StrEnum):
    """The state of the targets: met or not."""

    DONE = "done"
    """The artefact is written and meets every target."""
    MISSED = "missed"
    """The artefact is written, but slower than the latency target."""
    UNMEASURED = "unmeasured"
    """The artefact is written; its target is for another machine, so that it could not be measured."""
    ALREADY_MET = "already-met"
    """The dense model meets every target, so that nothing was written."""


@dataclass(frozen=True)
class Outcome:
    """The end of a run.

    Attributes:
        status: Whether the targets are met.
        out: The artefact's directory.
        report: The document of report.json; what preflight found where nothing was written.
    """

    status: Status
    out: Path
    report: Report | dict[str, Any]
