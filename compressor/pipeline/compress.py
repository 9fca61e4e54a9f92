"""The main job, from options to an artefact in place."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.errors import UserError
from compressor.export.files import sync_directory, write_json
from compressor.export.manifest import write_manifest
from compressor.latency.measure import Comparison
from compressor.pipeline.finish import Verified, export, verify
from compressor.pipeline.options import Options
from compressor.pipeline.preflight import check_output, preflight
from compressor.pipeline.prepare import prepare
from compressor.pipeline.reform import reform
from compressor.pipeline.rundir import RunDirectory
from compressor.pipeline.search import Searcher
from compressor.pipeline.solve import Round, Solver
from compressor.progress import Progress
from compressor.report.document import build_report


@dataclass(frozen=True)
class Outcome:
    """What a run ended with. status: "done", "missed" (written, but slower than the target), "unmeasured"
    (the target is of another machine) or "already-met" (nothing written)."""

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
    with closing(RunDirectory(options.out)) as run:
        if run.resumed:
            progress.say(f"resuming from {run.path}")
        prepared = prepare(options, card, run, progress)
        search = Searcher(options, card, prepared, run, progress)
        solver = Solver(options, card, search, prepared.key, run, progress)

        def make(chosen: Round) -> tuple[tuple[Path, Verified], Comparison | None]:
            name = reform(card, prepared, chosen, run, progress)
            artefact = export(options, card, chosen, name, run, progress)
            verified = verify(options, card, prepared, chosen, artefact, progress)
            return (artefact, verified), verified.timing

        (artefact, verified), chosen, met = solver.until_met(make)
        report = build_report(options, card, solver, chosen, verified, met, progress)
        shutil.copyfile(search.trace_path, artefact / "trace.jsonl")
        _publish(options, artefact, report, run)
    return Outcome({True: "done", False: "missed", None: "unmeasured"}[met], options.out, report)


def _publish(options: Options, artefact: Path, report: dict[str, Any], run: RunDirectory) -> None:
    """Complete the artefact, rename it into place, and only then let go of what it replaces."""
    write_json(artefact / "report.json", report)
    write_manifest(artefact)
    sync_directory(artefact)
    check_output(options)
    replaced = run.path / "replaced"
    try:
        if options.out.exists():
            options.out.rename(replaced)
        artefact.rename(options.out)
    except OSError as error:
        if replaced.exists() and not options.out.exists():
            replaced.rename(options.out)
        raise UserError(
            f"cannot write {options.out}: {error.strerror}", f"The artefact is at {artefact}."
        ) from None
    run.remove()
