"""A family of domains: a general subnet of one parent, one for each kind of text, and a router."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from lathe.artefact.family import FAMILY
from lathe.artefact.manifest import read_json
from lathe.compressor.calibration.tokens import SELF
from lathe.compressor.compute.progress import Progress
from lathe.compressor.pipeline.artefact_maker import ArtefactMaker
from lathe.compressor.pipeline.calibrate import CalibrationResult, calibrate
from lathe.compressor.pipeline.checks import Texts
from lathe.compressor.pipeline.compress import publish
from lathe.compressor.pipeline.default_bits import with_default_bits
from lathe.compressor.pipeline.domain_facts import domain_facts
from lathe.compressor.pipeline.domains import GENERAL
from lathe.compressor.pipeline.family_parts import Subnet, assemble, make_subnet, report_of, status_of
from lathe.compressor.pipeline.open_run import open_run
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.pipeline.outcome import Outcome, Status
from lathe.compressor.pipeline.preflight import run_preflight
from lathe.compressor.pipeline.run_context import RunContext
from lathe.compressor.pipeline.search import Searcher
from lathe.compressor.pipeline.verify import Verifier


def compress_domains(options: CompressOptions, progress: Progress) -> Outcome:
    """Compresses a model to one target once for any text, and once for each domain.

    Each subnet is ranked, searched, reconstructed and judged on its own text. The latency table is of all.
    What an earlier run of the same command left is resumed.

    Returns:
        The outcome, of which the report is the document of `family.json`.

    Raises:
        UserError: the input is bad, the target is unreachable, or an artefact fails its checks. What was at
            the output before is unchanged.
    """
    options = with_default_bits(options)
    preflight = run_preflight(options, progress)
    if preflight.already_met and not options.force:
        return Outcome(Status.ALREADY_MET, options.out, preflight.to_json())
    with open_run(options, preflight, progress) as context:
        subnets = list(_make(context))
        reports = [report_of(subnet) for subnet in subnets]
        facts = domain_facts(context, subnets)
        publish(context, assemble(context, subnets, reports, facts.write))
    return Outcome(status_of(subnets), options.out, read_json(options.out / FAMILY))


def _make(context: RunContext) -> Iterator[Subnet]:
    """Makes the subnets one after another, the general one first."""
    options, domains = context.options, context.options.domains
    text = options.calibration
    if text == SELF:
        text = ",".join(domain.text for domain in domains)
    own = replace(context, options=replace(options, domain=(), calibration=text))
    calibration = calibrate(own)
    yield _subnet(own, calibration, calibration.key, None)
    for domain in domains:
        texts = Texts(context.preflight.texts.domains[domain.name])
        own = replace(
            context,
            options=replace(options, domain=(), calibration=domain.text),
            preflight=replace(context.preflight, texts=texts),
        )
        yield _subnet(own, calibrate(own, model=calibration.model), calibration.key, domain.name)


def _subnet(context: RunContext, calibration: CalibrationResult, timing: str, domain: str | None) -> Subnet:
    context.progress.say(f"the subnet for {domain or 'any text'}")
    name = domain or GENERAL
    make = ArtefactMaker(context, calibration, Verifier(context, calibration), f"artefact-{name}")
    return make_subnet(name, Searcher(context, calibration), make, timing, domain)
