"""`lathe refresh OUT`: the current model files for an artefact written by another version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lathe.compressor.cli.common import emit


def refresh(
    artefact: Annotated[Path, typer.Argument(help="An artefact directory written by `compress`.")],
    overwrite: Annotated[
        bool, typer.Option(help="Replace model files that were edited after the export, too.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be replaced.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Replace the model files (Python) inside an artefact by those of this Lathe, and renew its manifest.

    Weights, graph, tokenizer and reports are not changed. Artefacts written before transformers 5.24 lose
    their KV cache on it without an error, and so give wrong answers; refreshed, they are right on every
    version that Lathe supports.

    Example:
      lathe refresh out
    """
    from lathe.artefact.errors import UserError
    from lathe.compressor.export.refresh import plan_refresh
    from lathe.compressor.export.refresh import refresh as renew

    plan = plan_refresh(artefact)
    if plan.edited and not overwrite and not dry_run:
        raise UserError(
            f"{', '.join(plan.edited)} in {artefact} was changed after the export",
            "Keep a copy of what you changed, and repeat with --overwrite.",
        )
    if not dry_run:
        renew(artefact)
    if json:
        emit({"artefact": str(artefact), "dry_run": dry_run, **plan.to_json()})
    elif not plan.replaced:
        typer.echo(f"{artefact}: its model files are those of this Lathe")
    else:
        done = "would replace" if dry_run else "replaced"
        typer.echo(f"{artefact}: {done} {', '.join(plan.replaced)}")
