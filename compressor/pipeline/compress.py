"""The main job, from options to an artefact in place."""

from __future__ import annotations

import math
from pathlib import Path

from lathe.artefact.atomic_files import publish_directory, write_bytes, write_json
from lathe.artefact.command_options import recorded
from lathe.artefact.manifest import write_manifest
from lathe.artefact.plan import Plan
from lathe.artefact.report_format import REPORT, Report
from lathe.compressor.compute.progress import Progress
from lathe.compressor.pipeline.artefact_maker import ArtefactMaker
from lathe.compressor.pipeline.calibrate import calibrate
from lathe.compressor.pipeline.checks import check_output
from lathe.compressor.pipeline.default_bits import with_default_bits
from lathe.compressor.pipeline.latency_loop import Iteration, LatencyLoop
from lathe.compressor.pipeline.open_run import open_run
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.pipeline.outcome import Outcome, Status
from lathe.compressor.pipeline.pareto import tradeoff
from lathe.compressor.pipeline.pattern import manifest_facts
from lathe.compressor.pipeline.preflight import run_preflight
from lathe.compressor.pipeline.quality_loop import QualityLoop
from lathe.compressor.pipeline.report import Compression, build_report
from lathe.compressor.pipeline.run_context import RunContext
from lathe.compressor.pipeline.search import Searcher
from lathe.compressor.pipeline.verify import Verifier
from lathe.compressor.report.page import PAGE, write_page


def compress(options: CompressOptions, progress: Progress) -> Outcome:
    """Compresses a model to its targets; resumes what an earlier run of the same command left.

    Raises:
        UserError: the input is bad, a target is unreachable, or the artefact fails its checks. What was
            at the output before is unchanged.
    """
    options = with_default_bits(options)
    preflight = run_preflight(options, progress)
    if preflight.already_met and not options.force:
        return Outcome(Status.ALREADY_MET, options.out, preflight.to_json())
    with open_run(options, preflight, progress) as context:
        calibration = calibrate(context)
        search = Searcher(context, calibration)
        loop = LatencyLoop(context, search, calibration.key)
        make = ArtefactMaker(context, calibration, Verifier(context, calibration))
        if options.perplexity_increase is None:
            made, iteration, status = loop.run(make)
            quality_rounds = None
        else:
            quality = _quality_loop(context, search, loop, make, options.perplexity_increase)
            iteration, status = quality.run(), Status.DONE
            made, quality_rounds = make(iteration), quality.rounds
        front = tradeoff(context, search, loop.table_at(made.timing), iteration.plan)
        report = build_report(
            context, Compression(loop, iteration, made.verified, status, quality_rounds, front)
        )
        complete_artefact(context, search, made.path, report, str(options.out))
        publish(context, made.path)
    return Outcome(status, options.out, report)


def _quality_loop(
    context: RunContext, search: Searcher, loop: LatencyLoop, make: ArtefactMaker, increase: float
) -> QualityLoop:
    """Returns the search for the fastest plan whose perplexity rises by no more than a share of dense's."""

    def evaluate(plan: Plan) -> Iteration:
        found = search.evaluate(plan)
        predicted = loop.table.predict(plan) if loop.table else None
        return Iteration(plan, found.selections, found.fitness, found.evaluations, predicted_ms=predicted)

    def loss_increase(iteration: Iteration) -> float:
        return make(iteration).verified.loss_increase

    return QualityLoop(
        context.preflight,
        loop.table,
        search.sensitivities(),
        math.log1p(increase),
        evaluate,
        loss_increase,
        context.progress,
    )


def complete_artefact(
    context: RunContext, search: Searcher, artefact: Path, report: Report, title: str
) -> None:
    """Writes what an artefact has beside its exports; `title` is what its page calls it."""
    write_bytes(artefact / "trace.jsonl", search.trace_path.read_bytes())
    write_json(artefact / REPORT, report)
    write_json(artefact / "options.json", recorded(context.options))
    write_page(artefact, artefact / PAGE, title)
    write_manifest(artefact, **manifest_facts(context.options))


def publish(context: RunContext, finished: Path) -> None:
    """Renames a complete directory into place, and only then removes what it replaces."""
    out, run_dir = context.options.out, context.run_dir
    check_output(context.options)
    publish_directory(finished, out, run_dir.path / "replaced", f"The artefact is at {finished}.")
    run_dir.remove()
