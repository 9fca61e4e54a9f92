"""What families of all kinds have in common: a subnet that was made, its report, and all in one directory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lathe.artefact.atomic_files import write_json
from lathe.artefact.command_options import recorded
from lathe.artefact.family import PLANS, FamilyPlan, write_family
from lathe.artefact.linked_files import bytes_once, link_equal_files
from lathe.artefact.onnx.graph_format import FOLDER
from lathe.artefact.report_format import Report
from lathe.compressor.export.onnx.sharing import share_graphs
from lathe.compressor.export.shared_checkpoints import share_checkpoints
from lathe.compressor.pipeline.artefact_maker import ArtefactMaker, MadeArtefact
from lathe.compressor.pipeline.calibrate import CalibrationResult
from lathe.compressor.pipeline.compress import complete_artefact
from lathe.compressor.pipeline.latency_loop import Iteration, LatencyLoop
from lathe.compressor.pipeline.option_values import GENAI
from lathe.compressor.pipeline.outcome import Status
from lathe.compressor.pipeline.pareto import tradeoff
from lathe.compressor.pipeline.report import Compression, build_report
from lathe.compressor.pipeline.run_context import RunContext
from lathe.compressor.pipeline.search import Searcher
from lathe.compressor.report.page.family import FAMILY_PAGE, write_family_page


@dataclass(frozen=True)
class Subnet:
    """A subnet that was made, with what its report is built from.

    Attributes:
        name: Of its plan.
        context: The run, with the subnet's own options.
        search: What found its plan.
        loop: What proved its latency.
        made: Its artefact, verified.
        iteration: Its plan.
        status: Whether it meets its target.
        domain: The kind of text that it is for; None: any.
    """

    name: str
    context: RunContext
    search: Searcher
    loop: LatencyLoop
    made: MadeArtefact
    iteration: Iteration
    status: Status
    domain: str | None = None

    @property
    def calibration(self) -> CalibrationResult:
        """What it was calibrated with."""
        return self.search.calibration


def make_subnet(
    name: str, search: Searcher, make: ArtefactMaker, timing: str, domain: str | None = None
) -> Subnet:
    """Makes a subnet that meets its target, or comes nearest, and verifies it.

    Args:
        name: Of its plan.
        search: Finds plans; has the run with the subnet's own options.
        make: Makes the artefact of a plan.
        timing: Names what is timed; subnets with the same share the latency table.
        domain: The kind of text that it is for.
    """
    loop = LatencyLoop(search.context, search, timing)
    made, iteration, status = loop.run(make)
    _ = made.verified
    return Subnet(name, search.context, search, loop, made, iteration, status, domain)


def status_of(subnets: Sequence[Subnet]) -> Status:
    """Returns that of a family: missed where one of its subnets missed its target."""
    missed = any(subnet.status is Status.MISSED for subnet in subnets)
    return Status.MISSED if missed else subnets[-1].status


def report_of(subnet: Subnet) -> Report:
    """Returns the report of a subnet."""
    made, loop = subnet.made, subnet.loop
    front = tradeoff(subnet.context, subnet.search, loop.table_at(made.timing), subnet.iteration.plan)
    compression = Compression(loop, subnet.iteration, made.verified, subnet.status, None, front)
    return build_report(subnet.context, compression)


def assemble(
    context: RunContext,
    subnets: Sequence[Subnet],
    reports: Sequence[Report],
    add: Callable[[Path], dict[str, Any]] = lambda _directory: {},
) -> Path:
    """Completes the artefacts and joins them to one directory; returns it.

    Args:
        context: The run.
        subnets: In the order of `family.json`.
        reports: Theirs.
        add: Writes what else is in the directory; returns what `family.json` says of that.
    """
    family = context.run_dir.fresh("family")
    (family / PLANS).mkdir()
    places = [family / PLANS / subnet.name for subnet in subnets]
    for subnet, place in zip(subnets, places, strict=True):
        subnet.made.path.rename(place)
    apart = bytes_once(places)
    with context.progress.stage("export: what subnets share", 1) as bar:
        _share(context, places)
        bar.advance()
    rows = []
    for subnet, report, place in zip(subnets, reports, places, strict=True):
        path = f"{PLANS}/{subnet.name}"
        complete_artefact(subnet.context, subnet.search, place, report, str(context.options.out / path))
        rows.append(_row(subnet, report, path))
    link_equal_files(places)
    write_json(family / "options.json", recorded(context.options))
    facts = {"bytes": {"together": bytes_once(places), "apart": apart}}
    write_family(family, rows, **facts, **add(family))
    write_family_page(family, family / FAMILY_PAGE, str(context.options.out))
    return family


def _share(context: RunContext, places: Sequence[Path]) -> None:
    """Stores once what several artefacts have; a graph for onnxruntime-genai reads the data as it is."""
    if context.options.graph_kind == "onnx" and GENAI not in context.options.export:
        share_graphs([place / FOLDER for place in places])
    share_checkpoints(places)


def _row(subnet: Subnet, report: Report, path: str) -> FamilyPlan:
    """Returns what `family.json` says of a subnet."""
    latency = report["latency"]
    return FamilyPlan(
        subnet.name,
        path,
        latency["predicted_ms"],
        latency["measured_ms"],
        subnet.made.verified.loss_increase,
        subnet.domain,
    )
