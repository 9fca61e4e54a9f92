"""`compress MODEL --target-latency 30ms -o OUT`."""

from __future__ import annotations

from typing import Annotated

import typer

from lathe.artefact.command_options import command_of
from lathe.compressor.cli import jobs
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.pipeline.shared_options import RUN


@command_of(CompressOptions)
def compress(
    options: CompressOptions,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check everything that needs no weights, measure the dense model and the smallest subnet, "
            "and stop.",
            rich_help_panel=RUN,
        ),
    ] = False,
    json: Annotated[
        bool,
        typer.Option(
            "--json", help="The report as one JSON document on stdout; no progress.", rich_help_panel=RUN
        ),
    ] = False,
) -> None:
    """Turn MODEL into a smaller one that meets a target, measured on this machine.

    Searches uneven per-layer widths (attention heads, FFN channels, whole blocks) and, for a target of
    latency or memory, the bits of weights in the ONNX graph; compensates the kept weights for the removed
    ones by least squares (no training), and writes an artefact that loads in transformers and ONNX Runtime,
    with a report. An interrupted run resumes when the same command is given again. OUT/options.json holds the
    options: --config OUT/options.json repeats the run.

    Examples:
      compress ./my-llama --target-latency 30ms -o out

      compress ./my-llama --target-speedup 1.5x --calibration corpus/ -o out

      compress ./my-llama --target-speedup 1.5x --bits 16 -o out   # widths alone, weights in float32

      compress ./my-llama --target-latency 12ms --quantize int4 -o out

      compress ./my-llama --target-speedup 1.2x,1.5x,2x -o out   # a family of nested subnets

      compress ./my-llama --target-speedup 1.5x --domain code=corpus/code --domain chat=chat.jsonl -o out

      compress meta-llama/Llama-3.2-1B --keep 70% --calibration notes.txt -o out

      compress --config run.yaml -o out   # run.yaml: {model: ./my-llama, target-latency: 30ms}
    """
    made = jobs.front if options.front else jobs.family if options.subnets > 1 else jobs.run
    job = jobs.dry_run if dry_run else made
    raise typer.Exit(job(options, json))
