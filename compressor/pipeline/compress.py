"""The main job, from options to an artefact in place."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lathe.artefact.atomic_files import publish_directory, write_bytes, write_json
from lathe.artefact.command_options import recorded
from lathe.artefact.manifest import write_manifest
from lathe.artefact.plan import Plan
from lathe.compressor.compute.device import out_of_memory_as_user_error
from lathe.compressor.compute.progress import Progress
from lathe.compressor.compute.workers.start import workers_at
from lathe.compressor.latency.measure import Comparison
from lathe.compressor.pipeline.calibrate import prepare
from lathe.compressor.pipeline.checks import check_output
from lathe.compressor.pipeline.export import export
from lathe.compressor.pipeline.inputs import resume
from lathe.compressor.pipeline.latency_loop import Iteration, LatencyLoop
from lathe.compressor.pipeline.memory_estimate import kept
from lathe.compressor.pipeline.options import Options
from lathe.compressor.pipeline.preflight import PreflightResult, preflight
from lathe.compressor.pipeline.quality_loop import QualityLoop
from lathe.compressor.pipeline.reconstruct import reform
from lathe.compressor.pipeline.report import build_report
from lathe.compressor.pipeline.run_directory import RunDirectory
from lathe.compressor.pipeline.search import Searcher
from lathe.compressor.pipeline.tradeoff import tradeoff
from lathe.compressor.pipeline.verify import Verified, Verifier
from lathe.compressor.report.page import PAGE, write_page


@dataclass(frozen=True)
class Outcome:
    """What a run ended with. status: "done", "missed" (written, but slower than the target), "unmeasured"
    (the target is of another machine) or "already-met" (nothing written).
    """

    status: str
    out: Path
    report: dict[str, Any]


def compress(options: Options, progress: Progress) -> Outcome:
    """Compress a model to its targets; resumes what an earlier run of the same command left.

    Raises:
        UserError: bad input, an unreachable target, or an artefact that fails its checks. What the
        user had stays as it was.
    """
    card = preflight(options, progress)
    if card.already_met and not options.force:
        return Outcome("already-met", options.out, card.to_json())
    with (
        kept(options.memory_limit),
        out_of_memory_as_user_error(options.where),
        closing(RunDirectory(options.out)) as run,
        workers_at(options.place, progress) as workers,
    ):
        resume(options, card, run, progress)
        prepared = prepare(options, card, run, progress, workers)
        search = Searcher(options, card, prepared, run, progress)
        solver = LatencyLoop(options, card, search, prepared.key, run, progress)
        verify = Verifier(options, card, prepared, run, progress)

        def make(chosen: Iteration) -> tuple[tuple[Path, Verified], Comparison | None]:
            name = reform(card, prepared, chosen, run, progress)
            artefact = export(options, card, chosen, name, run, progress)
            verified = verify(chosen, artefact)
            return (artefact, verified), verified.timing

        if options.perplexity_increase is None:
            (artefact, verified), chosen, met = solver.until_met(make)
            rounds = None
        else:
            fastest = _fastest(options, card, search, solver, lambda chosen: make(chosen)[0][1], progress)
            chosen, met = fastest.run(), True
            (artefact, verified), _ = make(chosen)
            rounds = fastest.rounds
        front = tradeoff(card, search, solver.table_now(verified.timing), chosen.plan)
        report = build_report(options, card, solver, chosen, verified, met, progress, rounds, front)
        write_bytes(artefact / "trace.jsonl", search.trace_path.read_bytes())
        _publish(options, artefact, report, run)
    return Outcome({True: "done", False: "missed", None: "unmeasured"}[met], options.out, report)


def _fastest(
    options: Options,
    card: PreflightResult,
    search: Searcher,
    solver: LatencyLoop,
    make: Callable[[Iteration], Verified],
    progress: Progress,
) -> QualityLoop:
    def choose(plan: Plan) -> Iteration:
        found = replace(search, card=replace(card, plan=plan))(card.constraints)
        predicted = solver.table.predict(plan) if solver.table else None
        return Iteration(plan, found.selections, found.fitness, found.evaluations, predicted_ms=predicted)

    def increase(chosen: Iteration) -> float:
        verified = make(chosen)
        return verified.subnet.loss - verified.dense.loss

    damage = search.damages()
    assert options.perplexity_increase is not None
    return QualityLoop(card, solver.table, damage, options.perplexity_increase, choose, increase, progress)


def _publish(options: Options, artefact: Path, report: dict[str, Any], run: RunDirectory) -> None:
    """Completes the artefact, renames it into place, and only then removes what it replaces."""
    write_json(artefact / "report.json", report)
    write_json(artefact / "options.json", recorded(options))
    write_page(artefact, artefact / PAGE, str(options.out))
    write_manifest(artefact)
    check_output(options)
    publish_directory(artefact, options.out, run.path / "replaced", f"The artefact is at {artefact}.")
    run.remove()
