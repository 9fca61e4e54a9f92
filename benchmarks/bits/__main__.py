"""Widths and bits searched together: is anything better at the same time, or the same bytes?

    make bench-bits MODEL=dir TEXT=calibration EVAL=heldout BENCH='--targets 1.5x,2x,4x --batch-sizes 1,8'

For each target, a speed-up over the dense model in float32, there is an artefact of `compress --bits auto`,
and alternatives of about the same milliseconds: pruned in float32, and pruned and then rounded to int8 or
int4, each by `compress --quantize` (on calibration text) and to nearest (`lathe export --quantize`). The
dense model is there in float32 and in int8 and int4, rounded in both ways, and as GGUF files that llama.cpp
quantizes and runs, where it is installed (extra `llamacpp`).

All are timed at the end, in turns with the dense model in float32, and scored in ONNX Runtime on the same
windows of the evaluation text. Writes JSON after every step, with a plot for each batch size beside it, and
prints tables and the verdict: what is as fast as one of our points and has less loss, and our loss increase
over that of dense int4 at its time, 1.5 times faster, and at its bytes.

The model is calibrated once. What the JSON has is not made again, so that an interrupted run goes on; rows
whose target was out of reach are tried again. Artefacts stay in --work.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch

from benchmarks.bits.making import Maker, benchmark
from benchmarks.bits.plot import plot
from benchmarks.bits.rows import ALREADY_MET, MADE, Document, Row, reference
from benchmarks.bits.scoring import evaluation_windows, score
from benchmarks.bits.settings import Settings, parse
from benchmarks.bits.table import remarks, table, verdict_lines
from benchmarks.bits.timing import measure
from benchmarks.bits.variants import REFERENCE
from benchmarks.bits.verdict import points, verdict
from benchmarks.exit_status import exit_status
from lathe.artefact.atomic_files import write_bytes
from lathe.compressor.compute.progress import Progress
from lathe.compressor.model.checkpoint import open_checkpoint


def main() -> int:
    """Returns the exit status."""
    return exit_status(lambda: compare(parse(__doc__)))


def compare(settings: Settings) -> None:
    """Makes, times and scores all artefacts, and prints what was found.

    Raises:
        UserError: the model, a text or the document will not do.
    """
    source, document = open_checkpoint(settings.model), Document(settings)
    windows, maker = evaluation_windows(settings, source), Maker(settings, document, source)
    rows = document.rows(settings)
    if settings.remeasure:
        for row in rows:
            row.time = {}
    for row in needed(rows):
        maker(row)
        document.change()
    made = [row for row in rows if row.status == MADE]
    _score(settings, document, made, maker, windows)
    for batch_size in settings.batch_sizes:
        dense = reference(made, batch_size)
        pending = [row for row in made if row.batch_size == batch_size and not row.time and row is not dense]
        timer = benchmark(settings, source, batch_size)
        measure(timer, dense, pending, maker.path, document.change)
    _tell(settings, document, rows)


def needed(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows whose artefacts are needed: those not done, and what they are timed beside."""
    pending = [row for row in rows if not row.complete and row.status != ALREADY_MET]
    return [row for row in rows if pending and (row.variant == REFERENCE or row in pending)]


def _score(
    settings: Settings, document: Document, made: Sequence[Row], maker: Maker, windows: torch.Tensor
) -> None:
    """Scores the rows that have no loss yet; an artefact of several rows is scored once."""
    known = {row.artefact: row.score for row in made if row.score}
    for row in made:
        if row.artefact not in known:
            known[row.artefact] = score(maker.path(row), windows, Progress(settings.quiet))
        row.score = known[row.artefact]
        document.change()


def _tell(settings: Settings, document: Document, rows: Sequence[Row]) -> None:
    """Writes the verdicts and the plots, and prints all."""
    verdicts = {}
    for batch_size in settings.batch_sizes:
        own = [row for row in rows if row.batch_size == batch_size]
        found = points(own)
        verdicts[str(batch_size)] = told = verdict(found)
        title = f"batch size {batch_size}"
        drawn = settings.out.with_name(f"{settings.out.stem}-batch{batch_size}.svg")
        write_bytes(drawn, plot(title, found).encode())
        print(f"\n{title}\n", table(found, own), "", *remarks(own), *verdict_lines(told), sep="\n")
        print(f"drawn to {drawn}", file=sys.stderr)
    document.change(verdicts=verdicts)
    print(f"written to {settings.out}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
