"""The options of `compress`, as the command line declares them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from lathe.artefact.byte_size import parse_bytes
from lathe.artefact.command_options import Option, words
from lathe.compressor.latency.effort import SECONDS
from lathe.compressor.latency.workload import parse_rate, parse_share
from lathe.compressor.pipeline.shared_options import (
    RUN,
    TARGETS,
    TEXT,
    WORKLOAD,
    SharedOptions,
    unless_empty,
)


def _output_of(given: Mapping[str, Any]) -> Path:
    """Returns the artefact's directory where none is given: in the working directory, by the model's name."""
    model = given["model"]
    name = Path(model).name or Path(model).resolve().name
    return Path(f"{name.removesuffix('.gguf')}-lathe")


@dataclass(frozen=True, kw_only=True)
class CompressFields(SharedOptions):
    """The fields of `CompressOptions`, one for each option; `rounds` has none."""

    out: Annotated[
        Path,
        Option(
            flags=("--output", "-o"),
            help="The artefact directory.",
            unset="MODEL-lathe",
            follows=_output_of,
            recorded=False,
        ),
    ]
    target_throughput: Annotated[
        float | None,
        Option(
            help="Such as 2000tok/s, of --batch-size sequences decoded together.",
            parser=parse_rate,
            unit="tok/s",
            panel=TARGETS,
        ),
    ] = None
    perplexity_increase: Annotated[
        float | None,
        Option(
            flags=("--max-perplexity-increase",),
            help="Such as 5%: the fastest model within it, on the evaluation text.",
            parser=unless_empty(parse_share),
            panel=TARGETS,
        ),
    ] = None
    plan: Annotated[
        Path | None,
        Option(help="A file with the widths to make, such as a plan.json of a --front.", panel=TARGETS),
    ] = None
    front: Annotated[
        bool,
        Option(
            flags=("--front",),
            help="Write plans for every latency, with a plot, and stop.",
            panel=TARGETS,
            recorded=False,
        ),
    ] = False
    export: Annotated[
        tuple[str, ...],
        Option(
            help="What is written beside the checkpoint: onnx, gguf or vllm, whichever is served and timed; "
            "genai writes onnx, too, and what onnxruntime-genai needs.",
            parser=words,
            panel=RUN,
        ),
    ] = ("checkpoint", "onnx")
    quantize: Annotated[
        str | None,
        Option(
            help="int8 or int4: weights of the ONNX graph or the GGUF file that is measured and served. With "
            "gguf also llama.cpp's own types, such as q8_0 or q4_k, rounded to nearest.",
            panel=RUN,
        ),
    ] = None
    group_size: Annotated[
        str,
        Option(
            help="Columns that share a scale in the ONNX graph's rounded weights: `auto`, what the error "
            "of each matrix allows; `adaptive`, by the range of its weights (FineQuant); 32, 64, 128 or 256, "
            "or the next fewer that fit a matrix.",
            panel=RUN,
        ),
    ] = "auto"
    kv_cache: Annotated[
        str | None,
        Option(
            help="int8: the ONNX graph that is measured and served keeps keys and values in 8 bits, in a "
            "quarter of the memory, by scales from the calibration text.",
            unset="float",
            panel=RUN,
        ),
    ] = None
    evaluation: Annotated[
        str | None,
        Option(
            help="Text for the reported perplexities: 32 windows spread over it.",
            unset="held-out calibration text",
            panel=TEXT,
        ),
    ] = None
    method: Annotated[
        str,
        Option(
            help="`lathe`; `fast`, with less reconstruction; `quick`, with the least; `policy-gradient` "
            "(arXiv 2406.10576), `fast` with a search over masks; `paper` (arXiv 2409.17372) for comparison; "
            "`auto`: `lathe` up to 30 M decoder parameters, else `fast`.",
            panel=RUN,
        ),
    ] = "auto"
    evaluations: Annotated[
        int | None,
        Option(
            help="The number of whole plans that the search evaluates; `lathe` then adds an evolutionary "
            "search. With `policy-gradient`, forward passes of a batch.",
            unset="the method's own",
            panel=RUN,
        ),
    ] = None
    tolerance: Annotated[
        float,
        Option(
            help="How far above the latency target the artefact may be measured, as a share of it.",
            panel=RUN,
        ),
    ] = 0.02
    rounds: int = 4
    force: Annotated[
        bool, Option(help="Compress although the dense model already meets the target.", panel=RUN)
    ] = False
    overwrite: Annotated[
        bool,
        Option(help="Replace OUT when the new artefact is complete.", panel=RUN, recorded=False),
    ] = False
    remeasure: Annotated[
        bool,
        Option(
            help="Measure the latency table again instead of using the cached one.",
            panel=RUN,
            recorded=False,
        ),
    ] = False
    measure_seconds: Annotated[
        float,
        Option(
            help="The time to measure the latency table in; a plan or an artefact gets half. Two loads of "
            "each model are timed in any case.",
            panel=WORKLOAD,
            recorded=False,
        ),
    ] = SECONDS
    memory_limit: Annotated[
        int | None,
        Option(
            help="Such as 8GiB: the most resident memory; what does not fit is kept on disk.",
            parser=unless_empty(parse_bytes),
            unit="B",
            panel=RUN,
            recorded=False,
        ),
    ] = None
    ray: Annotated[
        str | None,
        Option(
            help="Distribute the work: local:2 (two workers on this machine), HOST:PORT of a Ray cluster, or "
            "auto.",
            panel=RUN,
            recorded=False,
        ),
    ] = None
    worker_threads: Annotated[
        int | None,
        Option(help="Threads of each worker.", unset="all cores, divided", panel=RUN, recorded=False),
    ] = None
    device: Annotated[
        str,
        Option(
            help="Where search and reconstruction compute: cpu, cuda or cuda:1. Latency is measured on "
            "--backend.",
            panel=RUN,
        ),
    ] = "cpu"
