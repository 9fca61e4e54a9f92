"""What `lathe loadtest` does once its options are read: measure, write, tell."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from lathe.artefact.errors import UserError
from lathe.serving.loadtest import capacity_report, report
from lathe.serving.loadtest.compare import compare, run
from lathe.serving.loadtest.document import write_document
from lathe.serving.loadtest.find_capacity import most
from lathe.serving.loadtest.load import Load
from lathe.serving.loadtest.page.html import write_page
from lathe.serving.loadtest.slo import parse_slo
from lathe.serving.loadtest.testbed import Setup, is_url


@dataclass(frozen=True)
class LoadTestOptions:
    """What is loaded (URLs or directories; `against`: the dense model), with which limits, and where the
    result goes: files, and stdout as tables or as JSON.
    """

    target: str
    against: str | None
    slo: str | None
    slo_share: str
    rounds: int
    output: Path | None
    html: Path | None
    as_json: bool

    def check(self, model: str | None) -> None:
        """Raises UserError for what could not be done or written. `model`: the name to ask a URL for."""
        if model and not (is_url(self.target) and self.against is None):
            raise UserError("--model names a model of a running server", "Drop it, or load a single URL.")
        for file in (self.output, self.html):
            if file and not file.absolute().parent.is_dir():
                raise UserError(
                    f"The directory of {file} does not exist", "Make it, or choose another place."
                )
            if file and (file.is_dir() or not os.access(file.absolute().parent, os.W_OK)):
                raise UserError(f"{file} cannot be written", "Choose another place.")


def carry_out(asked: LoadTestOptions, load: Load, setup: Setup) -> None:
    """Measure, print the report, write the files.

    Raises:
        UserError: nothing could be measured, or, when all is written, if requests failed.
    """
    shown = report if asked.slo is None else capacity_report
    result = _measured(asked, load, setup)
    if asked.as_json:
        typer.echo(json.dumps(result, indent=1))
    else:
        shown.print_report(result)
    if asked.output:
        write_document(result, asked.output)
    if asked.html:
        write_page(result, asked.html)
    if failed := shown.failures(result):
        raise UserError(failed, "The numbers are of the other requests.")


def _measured(asked: LoadTestOptions, load: Load, setup: Setup) -> dict[str, Any]:
    rounds, target, dense = asked.rounds, asked.target, asked.against
    if asked.slo is not None:
        places = {"server": target} if dense is None else {"dense": dense, "subnet": target}
        return most(places, load, parse_slo(asked.slo, asked.slo_share), rounds=rounds, setup=setup)
    if dense is None:
        return run(target, load, rounds=rounds, setup=setup)
    return compare(target, dense, load, rounds=rounds, setup=setup)
