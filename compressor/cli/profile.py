"""`lathe profile MODEL -o FILE`: writes latency tables to search with on another machine."""

from __future__ import annotations

from typing import Annotated

import typer

from lathe.artefact.command_options import command_of
from lathe.compressor.cli.common import emit
from lathe.compressor.pipeline.profile_options import ProfileOptions


@command_of(ProfileOptions)
def profile(
    options: ProfileOptions,
    json: Annotated[
        bool, typer.Option("--json", help="Print the profile on stdout as well; no progress.")
    ] = False,
) -> None:
    """Measure MODEL's shapes on this machine, for `compress --profile FILE` on another one.

    About a dozen whole models with random weights, at most three at a time, are timed for every metric, batch
    size and context. With --hardware nothing runs: milliseconds are computed from the datasheet, and called
    an estimate everywhere.

    Examples:
      lathe profile ./my-llama --batch-size 1,8 --context 512,4096 -o here.json

      lathe profile ./my-llama --hardware h200 -o h200.json
    """
    from lathe.compressor.compute.progress import Progress
    from lathe.compressor.pipeline.profile import make_profile

    document = make_profile(options, Progress(quiet=json)).to_json()
    if json:
        emit(document)
    else:
        tables, file = len(document["tables"]), options.out
        typer.echo(f"{file}: {tables} tables; search with `compress --profile {file}`")
