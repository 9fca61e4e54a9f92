"""`lathe profile MODEL -o FILE`: writes latency tables to search with on another machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lathe.artefact.command_options import words
from lathe.compressor.cli.common import emit


def profile(
    model: Annotated[str, typer.Argument(help="A checkpoint directory or hub name; config.json is enough.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The JSON file to write.")],
    backend: Annotated[str, typer.Option(help="Engine to time.")] = "onnx",
    latency_metric: Annotated[str, typer.Option(help="tpot, ttft or e2e; several with commas.")] = "tpot",
    batch_size: Annotated[str, typer.Option(help="Sequences decoded together; several with commas.")] = "1",
    context: Annotated[
        str | None,
        typer.Option(
            help="Tokens in the cache or prompt; a search can interpolate between several. [default: 512, or "
            "as many as fit]"
        ),
    ] = None,
    output_tokens: Annotated[
        int | None, typer.Option(help="Tokens of an answer (e2e). [default: 128, or as many as fit]")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the engine. [default: all cores]")] = None,
    hardware: Annotated[
        str | None,
        typer.Option(help="Estimate from this device's datasheet instead of measuring, such as h200."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="The dtype of the weights, for an estimate.")] = "bfloat16",
    overwrite: Annotated[bool, typer.Option(help="Replace the file.")] = False,
    json: Annotated[bool, typer.Option("--json", help="The profile on stdout, too; no progress.")] = False,
) -> None:
    """Time MODEL's shapes on this machine, for `compress --profile FILE` on another one.

    About fifteen whole models with random weights are timed for every metric, batch size and context. With
    --hardware nothing runs: milliseconds are computed from the datasheet, and called an estimate everywhere.

    Examples:
      lathe profile ./my-llama --batch-size 1,8 --context 512,4096 -o here.json

      lathe profile ./my-llama --hardware h200 -o h200.json
    """
    from lathe.compressor.compute.progress import Progress
    from lathe.compressor.pipeline.profile import ProfileOptions, make_profile

    options = ProfileOptions(
        model,
        output,
        backend,
        list(words(latency_metric)),
        _numbers(batch_size, "--batch-size"),
        None if context is None else _numbers(context, "--context"),
        output_tokens,
        threads,
        hardware,
        dtype,
        overwrite,
    )
    document = make_profile(options, Progress(quiet=json)).to_json()
    if json:
        emit(document)
    else:
        typer.echo(f"{output}: {len(document['tables'])} tables; search with `compress --profile {output}`")


def _numbers(text: str, option: str) -> list[int]:
    from lathe.artefact.errors import UserError

    try:
        return [int(part) for part in words(text)]
    except ValueError:
        raise UserError(f"{option} {text} is not a list of whole numbers", "Write it like 1,8.") from None
