"""A process that opens graphs, prints what memory they take and how long their steps are, and ends.

    python -m benchmarks.elastic.process together|one-by-one THREADS CONTEXT STEPS GRAPH...

Memory is the proportional set size of Linux: a page that is mapped several times counts once.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil

from lathe.artefact.onnx.runner import OnnxRunner
from lathe.artefact.onnx.runners_together import open_together


def main(how: str, threads: str, context: str, steps: str, *graphs: str) -> None:
    """Opens the graphs, reads a prompt in each, and takes turns in steps."""
    before, length = _pss(), int(context) + int(steps) + 2
    openings = {
        graph: partial(OnnxRunner, Path(graph), max_batch=1, max_length=length, threads=int(threads))
        for graph in graphs
    }
    start = time.perf_counter()
    runners = (
        open_together(openings) if how == "together" else {name: one() for name, one in openings.items()}
    )
    seconds = time.perf_counter() - start
    for runner in runners.values():
        runner.prefill(0, np.arange(int(context)) % runner.vocab_size)
    taken = _pss() - before
    times = _turns([*runners.values()], int(steps))
    print(json.dumps({"pss_bytes": taken, "seconds_to_open": seconds, "step_ms": times}))


def _turns(runners: list[OnnxRunner], steps: int) -> list[float]:
    """Returns the median milliseconds of a step of each; one step of each comes first."""
    times: list[list[float]] = [[] for _ in runners]
    for _ in range(steps + 1):
        for mine, runner in zip(times, runners, strict=True):
            start = time.perf_counter()
            runner.decode(np.array([5]))
            mine.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(mine[1:]) for mine in times]


def _pss() -> int:
    """Returns the proportional set size of this process in bytes."""
    return int(psutil.Process().memory_full_info().pss)


if __name__ == "__main__":
    main(*sys.argv[1:])
