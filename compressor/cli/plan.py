"""`lathe plan MODEL`: the dry run, and the advice whether to cut, quantize, or both."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lathe.compressor.cli.common import emit, words


def plan(
    model: Annotated[str, typer.Argument(help="A Hugging Face checkpoint directory, or a hub name.")],
    target_latency: Annotated[str | None, typer.Option(help="As of `compress`, such as 30ms.")] = None,
    target_speedup: Annotated[str | None, typer.Option(help="As of `compress`, such as 1.5x.")] = None,
    target_memory: Annotated[str | None, typer.Option(help="As of `compress`, such as 6GiB.")] = None,
    keep: Annotated[str | None, typer.Option(help="As of `compress`, such as 80%.")] = None,
    latency_metric: Annotated[str, typer.Option(help="tpot, ttft or e2e.")] = "tpot",
    batch_size: Annotated[int, typer.Option(help="Sequences decoded together.")] = 1,
    context: Annotated[
        int | None, typer.Option(help="Tokens in the cache or prompt. [default: 512, or as many as fit]")
    ] = None,
    output_tokens: Annotated[
        int | None, typer.Option(help="Tokens of an answer (e2e). [default: 128, or as many as fit]")
    ] = None,
    backend: Annotated[str, typer.Option(help="Engine that the latency is measured on.")] = "onnx",
    serve_for: Annotated[str, typer.Option("--for", help="As of `compress`, such as vllm-w4a16.")] = "",
    tensor_parallel: Annotated[int, typer.Option(help="Devices that are to share every layer.")] = 1,
    threads: Annotated[int | None, typer.Option(help="Threads of the engine. [default: all cores]")] = None,
    profile: Annotated[
        Path | None, typer.Option(help="Milliseconds of another machine (`lathe profile`).")
    ] = None,
    latency: Annotated[bool, typer.Option(help="Time dense and the smallest subnet.")] = True,
    calibration: Annotated[
        str, typer.Option(help="Files or folders (with commas: equal shares), a data set, or `self`.")
    ] = "self",
    calibration_tokens: Annotated[
        int, typer.Option(help="That the run would use; the plan reads 16,384 at most.")
    ] = 65_536,
    seed: Annotated[int, typer.Option(help="Of the calibration text.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout; no progress.")] = False,
) -> None:
    """Tell what compressing MODEL would give and need, and whether to cut, quantize or both. Writes nothing.

    Feasibility: the dense model and the smallest subnet, timed here. Forecast for the targets: size, a band
    of quality, memory and time of the run. Advice: for several sizes of the decoder's weights, each way of
    getting there is tried on the model and judged by KL to dense, best first; weights are rounded to nearest.

    Examples:
      lathe plan ./my-llama --target-speedup 1.5x --calibration notes.txt

      lathe plan ./my-llama --no-latency
    """
    from rich.console import Console

    from lathe.compressor.compute.progress import Progress
    from lathe.compressor.latency.backend import backends
    from lathe.compressor.latency.workload import (
        asked_for,
        parse_bytes,
        parse_factor,
        parse_milliseconds,
        parse_share,
    )
    from lathe.compressor.pipeline.advise import advise
    from lathe.compressor.pipeline.options import Options
    from lathe.compressor.report import print_advice, print_card, print_forecast

    timed = latency or bool(target_latency or target_speedup)
    exports = tuple(dict.fromkeys(["checkpoint", *([backends.get(backend).export] if timed else [])]))
    workload, usual = asked_for(latency_metric, batch_size, context, output_tokens)
    options = Options(
        model=model,
        out=Path("plan"),
        target_latency_ms=parse_milliseconds(target_latency) if target_latency else None,
        target_speedup=parse_factor(target_speedup) if target_speedup else None,
        target_memory=parse_bytes(target_memory) if target_memory else None,
        keep=parse_share(keep) if keep else None if timed else 1.0,
        front=timed and not (target_latency or target_speedup),
        workload=workload,
        usual=usual,
        exports=exports,
        destinations=tuple(words(serve_for)),
        tensor_parallel=tensor_parallel,
        backend=backend,
        threads=threads,
        profile=profile,
        calibration=calibration,
        calibration_tokens=calibration_tokens,
        seed=seed,
    )
    advice = advise(options, Progress(quiet=json))
    if json:
        emit(advice)
        return
    console = Console()
    print_card(advice["card"], console)
    print_forecast(advice["forecast"], console)
    print_advice(advice, console)
