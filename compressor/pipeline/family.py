"""A family: several nested subnets of one parent from one run, each a whole artefact."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from lathe.artefact.family import FAMILY
from lathe.artefact.manifest import read_json
from lathe.artefact.plan import Plan
from lathe.compressor.compute.progress import Progress
from lathe.compressor.pipeline.artefact_maker import ArtefactMaker
from lathe.compressor.pipeline.calibrate import CalibrationResult, calibrate
from lathe.compressor.pipeline.compress import publish
from lathe.compressor.pipeline.default_bits import with_default_bits
from lathe.compressor.pipeline.family_parts import Subnet, assemble, make_subnet, report_of, status_of
from lathe.compressor.pipeline.open_run import open_run
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.pipeline.outcome import Outcome
from lathe.compressor.pipeline.preflight import run_preflight
from lathe.compressor.pipeline.run_context import RunContext
from lathe.compressor.pipeline.search import Searcher
from lathe.compressor.pipeline.verify import Verifier
from lathe.compressor.pipeline.wider_subnet import WiderSubnet


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
        publish(context, assemble(context, subnets, [report_of(subnet) for subnet in subnets]))
    return Outcome(status_of(subnets), options.out, read_json(options.out / FAMILY))


def _make(context: RunContext, calibration: CalibrationResult) -> Iterator[Subnet]:
    """Makes the subnets one after another, the widest first."""
    within: Plan | None = None
    wider: WiderSubnet | None = None
    verify = Verifier(context, calibration)
    for name, options in context.options.plans.items():
        context.progress.say(f"the plan {name}")
        own = replace(context, options=options)
        verify = verify.under(own)
        search = Searcher(own, calibration, ranked=True, within=within)
        make = ArtefactMaker(own, calibration, verify, f"artefact-{name}", wider)
        subnet = make_subnet(name, search, make, calibration.key)
        within, wider = subnet.iteration.plan, subnet.made.layers
        yield subnet
