"""report.html: one self-contained page that explains a result, made from report.json and trace.jsonl."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from jinja2 import Environment, PackageLoader, StrictUndefined

from lathe.artefact.atomic_files import write_bytes
from lathe.artefact.errors import UserError
from lathe.artefact.report_format import REPORT, Report, Samples
from lathe.compressor.report.page import front, latency, parts, quantization, search, shape
from lathe.compressor.report.page.result import result
from lathe.compressor.report.page.section import Facts

PAGE = "report.html"
_SECTIONS = (
    shape.section,
    front.section,
    latency.section,
    parts.section,
    search.section,
    quantization.section,
)
"""The sections in the order of the page; each returns None where a report has nothing for it."""


def write_page(artefact: Path, page: Path, out: str | None = None) -> None:
    """Writes the page of an artefact.

    Args:
        artefact: The artefact's directory.
        page: The file to write.
        out: The artefact's directory as commands on the page name it.

    Raises:
        UserError: there is no report, it is none of ours, or the page cannot be written.
    """
    facts = Facts(read_report(artefact), _trace(artefact / "trace.jsonl"), out or str(artefact))
    try:
        text = render(facts)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{artefact / 'report.json'} lacks what a page needs: {error!r}", "Compress the model again."
        ) from None
    write_bytes(page, text.encode())


def render(facts: Facts) -> str:
    """Returns the page; whatever a report holds is escaped."""
    sections = [section for make in _SECTIONS if (section := make(facts)) is not None]
    return (
        environment()
        .get_template("page.html")
        .render(
            report=facts.report, result=result(facts), sections=sections, facts=facts, samples=_samples(facts)
        )
    )


def environment() -> Environment:
    """Returns what renders templates of pages; whatever they are given is escaped."""
    return Environment(
        loader=PackageLoader("lathe.compressor.report.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _samples(facts: Facts) -> Samples | None:
    """Returns what both models wrote; None in reports without it."""
    samples = facts.report.get("samples")
    return samples if samples and samples["rows"] else None


def read_report(artefact: Path) -> Report:
    """Reads report.json of an artefact.

    Raises:
        UserError: it cannot be read, or is not a report.
    """
    try:
        report = json.loads((artefact / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{artefact} has no readable report.json: {error}") from None
    if not isinstance(report, dict):
        raise UserError(f"{artefact / 'report.json'} is not a report")
    return cast("Report", report)


def _trace(path: Path) -> list[dict[str, Any]]:
    """Reads the evaluations of the search; none where there is no trace.

    Raises:
        UserError: it cannot be read.
    """
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
