"""What runs of `compress` on the same text have in common, made once and lent to each of them.

Calibration, sensitivities and latency tables lie in a run directory of their own, where a run finds them as
if it were resumed. Two are needed: the widths of float32 graphs and of rounded ones differ.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from lathe.compressor.compute.progress import Progress
from lathe.compressor.pipeline.calibrate import calibrate
from lathe.compressor.pipeline.latency_loop import LatencyLoop
from lathe.compressor.pipeline.open_run import open_run
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.pipeline.preflight import run_preflight
from lathe.compressor.pipeline.search import Searcher

_GROWS = ".jsonl"
"""The end of names of files that a run appends to; all others are replaced whole, so that links will do."""
_LOCK = "lock"


class SharedRuns:
    """Run directories to begin with, below a folder."""

    def __init__(self, place: Path, quiet: bool = False) -> None:
        self._place, self._quiet = place, quiet
        self._prepared: set[tuple[str, int, bool]] = set()

    def lend(self, options: CompressOptions) -> None:
        """Gives a run what it has in common with others; a run that was killed goes on with what it has.

        Raises:
            UserError: the model or the text will not do.
        """
        run = _run_of(options.out)
        if run.exists():
            return
        shared = self._place / ("float32" if options.scheme is None else "rounded")
        facts = (options.backend, options.batch_size, options.timed)
        if facts not in self._prepared:
            target = {"target_speedup": 1.0} if options.timed else {"keep": 1.0, "plan": None}
            self._prepare(replace(options, out=shared, **target))
            self._prepared.add(facts)
        link(_run_of(shared), run)

    def forget(self, out: Path) -> None:
        """Removes what a run was given, so that a later one begins anew."""
        shutil.rmtree(_run_of(out), ignore_errors=True)

    def _prepare(self, options: CompressOptions) -> None:
        """Calibrates; for a target of latency, measures sensitivities and the latency table, too."""
        progress = Progress(self._quiet)
        progress.say(f"preparing runs of {options.backend} at batch size {options.batch_size}")
        preflight = run_preflight(options, progress)
        with open_run(options, preflight, progress) as context:
            calibration = calibrate(context)
            if options.timed:
                search = Searcher(context, calibration)
                search.sensitivities()
                LatencyLoop(context, search, calibration.key)


def link(shared: Path, run: Path) -> None:
    """Makes a run directory with the files of another one, by name only where they are never changed."""
    partial = run.with_name(f".{run.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for file in shared.iterdir():
        if file.suffix == _GROWS:
            shutil.copy2(file, partial / file.name)
        elif file.is_file() and file.name != _LOCK:
            os.link(file, partial / file.name)
    (partial / _LOCK).touch()
    partial.rename(run)


def _run_of(out: Path) -> Path:
    return out.with_name(out.name + ".run")
