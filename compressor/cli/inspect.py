"""`lathe inspect OUT`: shows an artefact's report again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lathe.compressor.cli.common import emit


def inspect(
    artefact: Annotated[Path, typer.Argument(help="An artefact directory written by `compress`.")],
    html: Annotated[
        Path | None, typer.Option(help="Write the report page, like OUT/report.html, to this file.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The report as one JSON document on stdout.")] = False,
) -> None:
    """Show what an artefact is: widths layer by layer, and dense against subnet as they were measured.

    Of a family it shows the widths and measurements of all subnets.
    """
    from rich.console import Console

    from lathe.artefact.family import is_family
    from lathe.artefact.shipped_files import warn_if_stale
    from lathe.compressor.report.page import read_report, write_page
    from lathe.compressor.report.terminal import print_report

    if is_family(artefact):
        _inspect_family(artefact, html, json)
        return
    warn_if_stale(artefact)
    report = read_report(artefact)
    if html:
        write_page(artefact, html)
    if json:
        emit(report)
    elif html:
        typer.echo(f"{html}: written")
    else:
        print_report(report, Console())


def _inspect_family(directory: Path, html: Path | None, json: bool) -> None:
    from rich.console import Console

    from lathe.artefact.family import FAMILY
    from lathe.artefact.manifest import read_json
    from lathe.compressor.report.family_table import print_family
    from lathe.compressor.report.page.family import write_family_page

    if html:
        write_family_page(directory, html)
    if json:
        emit(read_json(directory / FAMILY))
    elif html:
        typer.echo(f"{html}: written")
    else:
        print_family(directory, Console())
