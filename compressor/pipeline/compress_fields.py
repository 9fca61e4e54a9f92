"""The options of `compress`, as the command line declares them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from lathe.artefact.command_options import Option
from lathe.compressor.latency.workload import parse_rate, parse_share
from lathe.compressor.pipeline.run_fields import RunFields
from lathe.compressor.pipeline.shared_options import RUN, TARGETS, TEXT, output_named, unless_empty

OF_ONE_BUDGET = ("policy-gradient", "evopress", "tyr", "gisp", "grasprune")
"""Methods that search for one budget at a time."""
OF_WIDTHS = ("paper", *OF_ONE_BUDGET)
"""Methods that search no bits, and make no table of sensitivities."""


@dataclass(frozen=True, kw_only=True)
class CompressFields(RunFields):
    """The fields of `CompressOptions`, one for each option; `rounds` has none."""

    out: Annotated[
        Path,
        Option(
            flags=("--output", "-o"),
            help="The artefact directory.",
            unset="MODEL-lathe",
            follows=output_named("lathe"),
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
    domain: Annotated[
        tuple[str, ...],
        Option(
            help="Such as code=corpus/code, twice or more: a family of one subnet for any text and one for "
            "each domain, made with its text, and a router that chooses by the prompt. The first is made "
            "with --calibration, or else with the text of all.",
            panel=TEXT,
            metavar="NAME=TEXT",
        ),
    ] = ()
    pattern: Annotated[
        str | None,
        Option(
            help="N:M, such as 2:4: of every M consecutive weights of a row, N stay, and the others become "
            "zeros. Widths are pruned first, if a target asks for that. No engine here gets faster by it.",
            panel=RUN,
        ),
    ] = None
    pattern_method: Annotated[
        str | None,
        Option(
            help="How the weights of a --pattern are chosen and corrected: joint, or for comparison mrp, "
            "sparsegpt, wanda or magnitude.",
            unset="joint",
            panel=RUN,
        ),
    ] = None
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
