"""`lathe inspect OUT`: an artefact's report again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compressor.cli.common import emit


def inspect(
    artefact: Annotated[Path, typer.Argument(help="An artefact directory written by `compress`.")],
    json: Annotated[bool, typer.Option("--json", help="The report as one JSON document on stdout.")] = False,
) -> None:
    """Show what an artefact is: widths layer by layer, and dense against subnet as they were measured."""
    from json import loads

    from rich.console import Console

    from compressor.errors import UserError
    from compressor.report.terminal import print_report

    try:
        report = loads((artefact / "report.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{artefact} has no readable report.json: {error}") from None
    if json:
        emit(report)
    else:
        print_report(report, Console())
