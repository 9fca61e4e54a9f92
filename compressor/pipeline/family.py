"""A family: several nested subnets of one parent from one run, each a whole artefact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lathe.artefact.atomic_files import write_json
from lathe.artefact.command_options import recorded
from lathe.artefact.family import FAMILY, PLANS, FamilyPlan, write_family
from lathe.artefact.manifest import read_json
from lathe.artefact.plan import Plan
from lathe.artefact.report_format import Report
from lathe.compressor.compute.progress import Progress
from lathe.compressor.pipeline.artefact_maker import ArtefactMaker, MadeArtefact
from lathe.compressor.pipeline.calibrate import CalibrationResult, calibrate
from lathe.compressor.pipeline.compress import complete_artefact, publish
from lathe.compressor.pipeline.default_bits import with_default_bits
from lathe.compressor.pipeline.latency_loop import Iteration, LatencyLoop
from lathe.compressor.pipeline.open_run import open_run
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.pipeline.outcome import Outcome, Status
from lathe.compressor.pipeline.pareto import tradeoff
from lathe.compressor.pipeline.preflight import run_preflight
from lathe.compressor.pipeline.report import Compression, build_report
from lathe.compressor.pipeline.run_context import RunContext
from lathe.compressor.pipeline.search import Searcher
from lathe.compressor.pipeline.verify import Verifier


@dataclass(frozen=True)
class _Subnet:
    """A subnet that was made, with what its report is built from."""

    name: str
    context: RunContext
    search: Searcher
    loop: LatencyLoop
    made: MadeArtefact
    iteration: Iteration
    status: Status


def compress_family(options: CompressOptions, progress: Progress) -> Outcome:
    """Compresses a model to several targets, each subnet within the next wider one.

    Calibration, the latency table and the sensitivities are of all; what an earlier run of the same command
    left is resumed.

    Returns:
        The outcome, of which the report is the document of `family.json`.

    Raises:
        UserError: the input is bad, a target is unreachable, or an artefact fails its checks. What was at the
            output before is unchanged.
    """
    options = with_default_bits(options)
    preflight = run_preflight(options, progress)
    with open_run(options, preflight, progress) as context:
        calibration = calibrate(context)
        subnets = list(_make(context, calibration))
        reports = [_report(subnet) for subnet in subnets]
        finished = _assemble(context, subnets, reports)
        publish(context, finished)
    missed = any(subnet.status is Status.MISSED for subnet in subnets)
    return Outcome(
        Status.MISSED if missed else subnets[-1].status, options.out, read_json(options.out / FAMILY)
    )


def _make(context: RunContext, calibration: CalibrationResult) -> Iterator[_Subnet]:
    """Makes the subnets one after another, the widest first."""
    wider: Plan | None = None
    verify = Verifier(context, calibration)
    for name, options in context.options.plans.items():
        context.progress.say(f"the plan {name}")
        own = replace(context, options=options)
        search = Searcher(own, calibration, ranked=True, within=wider)
        loop, verify = LatencyLoop(own, search, calibration.key), verify.under(own)
        made, iteration, status = loop.run(ArtefactMaker(own, calibration, verify, f"artefact-{name}"))
        _ = made.verified
        wider = iteration.plan
        yield _Subnet(name, own, search, loop, made, iteration, status)


def _report(subnet: _Subnet) -> Report:
    """Returns the report of a subnet."""
    made, loop = subnet.made, subnet.loop
    front = tradeoff(subnet.context, subnet.search, loop.table_at(made.timing), subnet.iteration.plan)
    compression = Compression(loop, subnet.iteration, made.verified, subnet.status, None, front)
    return build_report(subnet.context, compression)


def _assemble(context: RunContext, subnets: Sequence[_Subnet], reports: Sequence[Report]) -> Path:
    """Completes the artefacts and joins them to one directory; returns it."""
    family = context.run_dir.fresh("family")
    (family / PLANS).mkdir()
    rows = []
    for subnet, report in zip(subnets, reports, strict=True):
        path = f"{PLANS}/{subnet.name}"
        subnet.made.path.rename(family / path)
        title = str(context.options.out / path)
        complete_artefact(context, subnet.search, family / path, report, title)
        rows.append(_row(subnet, report, path))
    write_json(family / "options.json", recorded(context.options))
    write_family(family, rows)
    return family


def _row(subnet: _Subnet, report: Report, path: str) -> FamilyPlan:
    """Returns what `family.json` says of a subnet."""
    latency = report["latency"]
    return FamilyPlan(
        subnet.name,
        path,
        latency["predicted_ms"],
        latency["measured_ms"],
        subnet.made.verified.loss_increase,
    )
