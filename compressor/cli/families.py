"""`lathe families`: the model families, and what each can be exported to."""

from __future__ import annotations

from typing import Annotated

import typer

from lathe.compressor.cli.common import emit


def families(
    json: Annotated[bool, typer.Option("--json", help="The list as one JSON document on stdout.")] = False,
) -> None:
    """List the model families that can be compressed (`model_type` of config.json).

    Every family is shown with the models that it covers and the formats that it can be exported to.
    """
    from rich.console import Console
    from rich.table import Table

    from lathe.compressor.export import exporters
    from lathe.compressor.model.families import families as declared

    formats = {name: exporters.get(name) for name in exporters.listed()}
    table = Table(caption=f"exporters: {', '.join(formats)}", caption_justify="left")
    table.add_column("family", no_wrap=True)
    for column in ("models", "exported by"):
        table.add_column(column)
    rows = []
    for name in declared.known():
        family = declared.get(name)
        known = {kind: exporter.knows(family) for kind, exporter in formats.items()}
        rows.append({"family": name, "models": family.description, "exporters": known})
        missing = [kind for kind in formats if not known[kind]]
        table.add_row(name, family.description, f"all but {', '.join(missing)}" if missing else "all")
    if json:
        emit({"families": rows})
    else:
        Console().print(table)
