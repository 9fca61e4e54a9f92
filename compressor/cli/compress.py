"""`compress MODEL --target-latency 30ms -o OUT`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lathe.compressor.cli import jobs
from lathe.compressor.cli.common import quantized, words

_TARGETS, _WORKLOAD, _TEXT, _RUN = "Targets", "Workload that latency is measured on", "Text", "Run"


def compress(
    model: Annotated[str, typer.Argument(help="A Hugging Face checkpoint directory, or a hub name.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The artefact directory. [default: MODEL-lathe]")
    ] = None,
    target_latency: Annotated[
        str | None,
        typer.Option(help="Such as 30ms: what the finished artefact must take.", rich_help_panel=_TARGETS),
    ] = None,
    target_speedup: Annotated[
        str | None,
        typer.Option(help="Such as 1.5x, over the dense model on this machine.", rich_help_panel=_TARGETS),
    ] = None,
    target_throughput: Annotated[
        str | None,
        typer.Option(
            help="Such as 2000tok/s, of --batch-size sequences decoded together.", rich_help_panel=_TARGETS
        ),
    ] = None,
    max_perplexity_increase: Annotated[
        str | None,
        typer.Option(
            help="Such as 5%: the fastest within it, on the evaluation text.", rich_help_panel=_TARGETS
        ),
    ] = None,
    target_memory: Annotated[
        str | None,
        typer.Option(
            help="Such as 6GiB: weights plus KV cache, as served, at the batch size and context.",
            rich_help_panel=_TARGETS,
        ),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            help="Such as 80%: share of the decoder's parameters that stays.", rich_help_panel=_TARGETS
        ),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(help="Widths to make, such as a plan.json of a --front.", rich_help_panel=_TARGETS),
    ] = None,
    front: Annotated[
        bool,
        typer.Option(
            "--front", help="Write plans for every latency, with a plot, and stop.", rich_help_panel=_TARGETS
        ),
    ] = False,
    latency_metric: Annotated[
        str, typer.Option(help="tpot, ttft or e2e.", rich_help_panel=_WORKLOAD)
    ] = "tpot",
    batch_size: Annotated[
        int, typer.Option(help="Sequences decoded together.", rich_help_panel=_WORKLOAD)
    ] = 1,
    context: Annotated[
        int | None,
        typer.Option(
            help="Tokens in the cache (tpot) or in the prompt (ttft, e2e). [default: 512, or as many as fit]",
            rich_help_panel=_WORKLOAD,
        ),
    ] = None,
    output_tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens of an answer (e2e). [default: 128, or as many as fit]", rich_help_panel=_WORKLOAD
        ),
    ] = None,
    backend: Annotated[
        str, typer.Option(help="Engine to measure on: onnx, vllm or torch.", rich_help_panel=_WORKLOAD)
    ] = "onnx",
    export: Annotated[
        str,
        typer.Option(
            help="What is written: checkpoint, and onnx or vllm, whichever is served and measured.",
            rich_help_panel=_RUN,
        ),
    ] = "checkpoint,onnx",
    serve_for: Annotated[
        str,
        typer.Option(
            "--for",
            help="Where it will be served besides, such as vllm or vllm-w4a16: search only plans for that.",
            rich_help_panel=_RUN,
        ),
    ] = "",
    tensor_parallel: Annotated[
        int,
        typer.Option(
            help="Devices that are to share every layer: search only widths that they can.",
            rich_help_panel=_RUN,
        ),
    ] = 1,
    quantize: Annotated[
        str | None,
        typer.Option(
            help="int8 or int4: weights of the ONNX graph that is measured and served.", rich_help_panel=_RUN
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(help="Threads of the engine. [default: all cores]", rich_help_panel=_WORKLOAD),
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(
            help="Search with the milliseconds of this file (`lathe profile`), as of another machine.",
            rich_help_panel=_WORKLOAD,
        ),
    ] = None,
    calibration: Annotated[
        str,
        typer.Option(
            help="Files or folders (with commas: equal shares), a data set, or `self`: the model's own.",
            rich_help_panel=_TEXT,
        ),
    ] = "self",
    calibration_tokens: Annotated[
        int, typer.Option(help="How much of it is used.", rich_help_panel=_TEXT)
    ] = 65_536,
    evaluation: Annotated[
        str | None,
        typer.Option(
            help="Text for the reported perplexities, 64 windows from all over it. [default: held-out "
            "calibration text]",
            rich_help_panel=_TEXT,
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="`lathe`; `quick`, without its dearest parts; or `paper` (arXiv 2409.17372) for comparison.",
            rich_help_panel=_RUN,
        ),
    ] = "lathe",
    evaluations: Annotated[
        int | None,
        typer.Option(
            help="Plans judged whole; `lathe` then adds an evolution. [default: the method's own]",
            rich_help_panel=_RUN,
        ),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            help="How far above the latency target the artefact may be measured.", rich_help_panel=_RUN
        ),
    ] = 0.02,
    seed: Annotated[
        int,
        typer.Option(help="Same seed, same text, same latency table: same artefact.", rich_help_panel=_RUN),
    ] = 0,
    force: Annotated[
        bool,
        typer.Option(help="Go on although the dense model already meets the target.", rich_help_panel=_RUN),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option(help="Replace OUT when the new artefact is complete.", rich_help_panel=_RUN)
    ] = False,
    remeasure: Annotated[
        bool,
        typer.Option(
            help="Measure the latency table again instead of using the cached one.", rich_help_panel=_RUN
        ),
    ] = False,
    memory_limit: Annotated[
        str | None,
        typer.Option(
            help="Such as 8GiB: what stays resident at most; the rest of the work is kept on disk.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Spread the work: local:2 (so many workers here), or HOST:PORT of a Ray cluster, or auto.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    worker_threads: Annotated[
        int | None,
        typer.Option(help="Threads of each worker. [default: all cores, shared out]", rich_help_panel=_RUN),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            help="Where search and reform compute: cpu, cuda or cuda:1. Latency is that of --backend.",
            rich_help_panel=_RUN,
        ),
    ] = "cpu",
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check all that reads no weights, time dense and the floor, and stop.",
            rich_help_panel=_RUN,
        ),
    ] = False,
    json: Annotated[
        bool,
        typer.Option(
            "--json", help="The report as one JSON document on stdout; no progress.", rich_help_panel=_RUN
        ),
    ] = False,
) -> None:
    """Turn MODEL into a smaller one that meets a target, measured on this machine.

    Searches uneven per-layer widths (attention heads, FFN channels, whole blocks), corrects the kept
    weights with what the omitted ones knew (no training), and writes an artefact that loads in
    transformers and ONNX Runtime, with a report. An interrupted run resumes when the same command is
    given again.

    Examples:
      compress ./my-llama --target-latency 30ms -o out

      compress ./my-llama --target-speedup 1.5x --calibration corpus/ -o out

      compress ./my-llama --target-latency 12ms --quantize int4 -o out

      compress meta-llama/Llama-3.2-1B --keep 70% --calibration notes.txt -o out
    """
    from lathe.compressor.latency.workload import asked_for, parse_bytes, parse_factor, parse_share
    from lathe.compressor.pipeline.options import Options

    workload, usual = asked_for(latency_metric, batch_size, context, output_tokens)
    options = Options(
        model=model,
        out=output or Path((Path(model).name or Path(model).resolve().name) + "-lathe"),
        target_latency_ms=_milliseconds(target_latency, target_throughput, latency_metric, batch_size),
        target_speedup=parse_factor(target_speedup) if target_speedup else None,
        target_memory=parse_bytes(target_memory) if target_memory else None,
        keep=parse_share(keep) if keep else None,
        plan=plan,
        front=front,
        perplexity_increase=parse_share(max_perplexity_increase) if max_perplexity_increase else None,
        workload=workload,
        usual=usual,
        backend=quantized(backend, quantize),
        exports=tuple(quantized(e, quantize) for e in words(export)),
        destinations=tuple(words(serve_for)),
        tensor_parallel=tensor_parallel,
        method=method,
        threads=threads,
        profile=profile,
        calibration=calibration,
        calibration_tokens=calibration_tokens,
        evaluation=evaluation,
        evaluations=evaluations,
        tolerance=tolerance,
        seed=seed,
        force=force,
        overwrite=overwrite,
        remeasure=remeasure,
        memory_limit=parse_bytes(memory_limit) if memory_limit else None,
        ray=ray,
        worker_threads=worker_threads,
        device=device,
    )
    job = jobs.dry_run if dry_run else jobs.front if front else jobs.run
    raise typer.Exit(job(options, json))


def _milliseconds(latency: str | None, throughput: str | None, metric: str, batch_size: int) -> float | None:
    """The latency target; a throughput is one of TPOT: every step of the batch gives a token a sequence."""
    from lathe.artefact.errors import UserError
    from lathe.compressor.latency.workload import parse_milliseconds, parse_rate

    if throughput is None:
        return parse_milliseconds(latency) if latency else None
    if latency or metric != "tpot":
        raise UserError("--target-throughput is a target of tpot", "Leave the other latency options out.")
    return 1e3 * batch_size / parse_rate(throughput)
