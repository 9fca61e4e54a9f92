"""`lathe tune MODEL --target-speedup 1.5x --trials 40`."""

from __future__ import annotations

from typing import Annotated

import typer

from lathe.artefact.command_options import command_of
from lathe.compressor.cli.common import emit
from lathe.compressor.tuning.tune_options import TUNING, TuneOptions


@command_of(TuneOptions)
def tune(
    options: TuneOptions,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print the search space and about how long it takes, and stop.",
            rich_help_panel=TUNING,
        ),
    ] = False,
    json: Annotated[
        bool,
        typer.Option(
            "--json", help="The report as one JSON document on stdout; no progress.", rich_help_panel=TUNING
        ),
    ] = False,
) -> None:
    """Tune the options of `compress` for MODEL and a target: what loses least on held-out text.

    A trial is a whole run of `compress` but for the artefact's own timing. Trial 0 is the run without tuning.
    Trials are kept in OUT/study.sqlite3: after an interruption the same command goes on where it was, and
    more --trials add to them. In the end the best trial and the default are run with other seeds, which tells
    whether the gain is one. Needs `pip install 'lathe[tune]'`.

    Examples:
      lathe tune ./my-llama --target-speedup 1.5x --trials 40 --save tuned.yaml

      lathe tune ./my-llama --keep 70% --time-budget 30m --sampler nomad --evaluation notes.txt

      lathe tune ./my-llama --keep 70% --tune damping=0.001..0.1 --tune ffn-levels=4..32

      compress --config tuned.yaml -o out
    """
    from rich.console import Console

    from lathe.compressor.compute.progress import Progress
    from lathe.compressor.report.tuning_table import print_space, print_tuning
    from lathe.compressor.tuning import tune as run
    from lathe.compressor.tuning.results import DOCUMENT, PLOT

    document = (run.dry_run if dry_run else run.tune)(options, Progress(quiet=json))
    if json:
        emit(document)
    elif dry_run:
        print_space(document, Console())
    else:
        print_tuning(document, Console())
        typer.echo(f"{options.out}/{PLOT} shows the trials; {options.out}/{DOCUMENT} has them")
        if options.save:
            typer.echo(f"{options.save}: `compress --config {options.save} -o OUT` makes the best")
