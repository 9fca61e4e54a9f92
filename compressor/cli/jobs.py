"""The jobs of `compress`: each runs with the options, prints the result, and returns the exit status."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import typer

from lathe.compressor.cli.common import emit

if TYPE_CHECKING:
    from lathe.artefact.report_format import Report
    from lathe.compressor.pipeline.options import CompressOptions
    from lathe.compressor.pipeline.outcome import Outcome

_ALREADY_MET = "the dense model already meets the target; nothing was written (--force compresses anyway)"


def front(options: CompressOptions, as_json: bool) -> int:
    """Writes the front and prints it."""
    from rich.console import Console

    from lathe.compressor.compute.progress import Progress
    from lathe.compressor.pipeline.pareto import write_front
    from lathe.compressor.report.terminal import print_front

    document = write_front(options, Progress(quiet=as_json))
    if as_json:
        emit(document)
    else:
        print_front(document, Console())
        typer.echo(f"{options.out}/front.svg shows it; `compress {options.model} --plan FILE` makes one")
    return 0


def dry_run(options: CompressOptions, as_json: bool) -> int:
    """Checks everything, prints the result, and writes nothing."""
    from rich.console import Console

    from lathe.compressor.compute.progress import Progress
    from lathe.compressor.pipeline.default_bits import with_default_bits
    from lathe.compressor.pipeline.preflight import run_preflight
    from lathe.compressor.report.terminal import print_preflight

    document = run_preflight(with_default_bits(options), Progress(quiet=as_json)).to_json()
    if as_json:
        emit(document)
    else:
        print_preflight(document, Console())
    return 0


def family(options: CompressOptions, as_json: bool) -> int:
    """Compresses to several targets, or for several domains; prints the family and how to serve it."""
    from rich.console import Console

    from lathe.compressor.compute.progress import Progress
    from lathe.compressor.pipeline.domain_family import compress_domains
    from lathe.compressor.pipeline.family import compress_family
    from lathe.compressor.pipeline.outcome import Status
    from lathe.compressor.report.family_table import print_family

    compress = compress_domains if options.domain else compress_family
    outcome = compress(options, Progress(quiet=as_json))
    if as_json:
        emit(outcome.report)
    elif outcome.status is Status.ALREADY_MET:
        typer.echo(_ALREADY_MET)
    else:
        print_family(outcome.out, Console())
        typer.echo(f"{outcome.out}: serve it with `lathe serve {outcome.out}`")
    if outcome.status is Status.MISSED:
        typer.echo(
            "error: a subnet took longer than its target. Run again when the machine is quieter, or relax "
            "the target.",
            err=True,
        )
        return 3
    return 0


def run(options: CompressOptions, as_json: bool) -> int:
    """Compresses; prints the report and how to serve the artefact."""
    from lathe.compressor.compute.progress import Progress
    from lathe.compressor.pipeline.compress import compress
    from lathe.compressor.pipeline.outcome import Status

    outcome = compress(options, Progress(quiet=as_json))
    if as_json:
        emit(outcome.report)
    elif outcome.status is Status.ALREADY_MET:
        typer.echo(_ALREADY_MET)
    else:
        _print_outcome(options, outcome)
    if outcome.status is Status.MISSED:
        latency = outcome.report["latency"]
        typer.echo(
            f"error: the artefact took {latency['measured_ms']:.4g} ms; the target was "
            f"{latency['target_ms']:.4g} ms. Run again when the machine is quieter, or relax the target.",
            err=True,
        )
        return 3
    return 0


def _print_outcome(options: CompressOptions, outcome: Outcome) -> None:
    """Prints the report of an artefact, and how to serve it."""
    from rich.console import Console

    from lathe.compressor.export import exporters
    from lathe.compressor.pipeline.outcome import Status
    from lathe.compressor.report.page import PAGE
    from lathe.compressor.report.terminal import print_report

    report = cast("Report", outcome.report)
    if outcome.status is Status.UNMEASURED:
        latency = report["latency"]
        estimate = (latency["profile"] or {}).get("estimate")
        kind = "estimated" if estimate else "predicted from the profile"
        typer.echo(
            f"{latency['predicted_ms']:.4g} ms are {kind}, not measured: of another machine or setting. "
            f"On the one that serves, run: lathe loadtest {outcome.out}"
        )
    print_report(report, Console())
    commands = [exporters.get(name).serving(outcome.out, options.tensor_parallel) for name in options.exports]
    serve = " or ".join(f"`{command}`" for command in commands if command)
    typer.echo(f"{outcome.out}: serve it with {serve}" if serve else f"{outcome.out}: written")
    typer.echo(f"{outcome.out}/{PAGE}: the report as a page")
