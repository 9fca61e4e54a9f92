"""Timing: all artefacts of a batch size in one session, each taking turns with the dense model in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.bits.engines import engine_files
from benchmarks.bits.rows import Row
from lathe.compressor.latency.bench import Timing
from lathe.compressor.latency.comparison import Comparison
from lathe.compressor.latency.measure import LatencyBenchmark
from lathe.compressor.latency.session import GROUP, Session


def measure(
    benchmark: LatencyBenchmark,
    dense: Row,
    rows: Sequence[Row],
    path: Callable[[Row], Path],
    changed: Callable[[], None],
) -> None:
    """Times rows, at most `GROUP` models loaded at a time, the reference among them.

    Args:
        benchmark: Has the work, and the seconds.
        dense: The row of the reference, whose time is noted unless it has one.
        rows: The rows to time.
        path: Where the artefact of a row lies.
        changed: Is called after each group.
    """
    if not rows:
        return
    groups = [rows[at : at + GROUP - 1] for at in range(0, len(rows), GROUP - 1)]
    effort = replace(benchmark.proof, seconds=benchmark.proof.seconds * len(groups))
    session, began = Session(benchmark, effort, len(groups)), datetime.now(UTC).isoformat(timespec="seconds")
    references, known = Timing(), bool(dense.time)
    with benchmark.progress.stage("time: artefacts against dense float32", len(groups)) as bar:
        for group in groups:
            reference, *timings = session.group([engine_files(path(row)) for row in (dense, *group)])
            references += reference
            if not known:
                dense.time = _facts(session.compared(references, references), began)
            for row, timing in zip(group, timings, strict=True):
                row.time = _facts(session.compared(reference, timing), began)
            changed()
            bar.advance()


def _facts(found: Comparison, session: str) -> dict[str, Any]:
    return {
        "session": session,
        "ratio": found.ratio,
        "standard_error": found.paired.standard_error,
        "ms": found.subnet.median,
        "dense_ms": found.dense.median,
        "turns_ms": found.subnet.repeats,
        "dense_turns_ms": found.dense.repeats,
    }
