"""Decode steps from huge pages beside the same ones from small pages, in turns.

    make bench-huge-pages GRAPHS='out/onnx/model.onnx out-int8/onnx/model.onnx' BENCH='--threads 2'

Every graph is loaded twice, as `lathe serve` loads it and as ONNX Runtime alone would. All sessions take
turns, so that a step finds none of its weights in the processor's cache. Prints medians and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnxruntime as ort

from lathe.artefact.fingerprint import fingerprint
from lathe.artefact.onnx import runner as runners
from lathe.artefact.onnx.runner import OnnxRunner


def main(argv: list[str] | None = None) -> None:
    """Loads, times, writes and prints."""
    args = _arguments(argv)
    sessions = list(_sessions(args))
    times = _turns([session for _, _, session in sessions], args.steps)
    rows = _rows([(graph, huge) for graph, huge, _ in sessions], times)
    document = {
        "command": shlex.join(["python", "-m", "benchmarks.huge_pages", *sys.argv[1:]]),
        "machine": fingerprint({"onnxruntime": ort.__version__}, args.threads),
        "unit": "milliseconds of a decode step, batch 1, medians",
        "context": args.context,
        "rows": rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(document, indent=2) + "\n")
    for row in rows:
        print(
            "{graph}: small pages {small_ms:.2f} ms, huge pages {huge_ms:.2f} ms, {ratio:.2f}".format(**row)
        )


def _sessions(args: argparse.Namespace) -> Iterator[tuple[Path, bool, OnnxRunner]]:
    """Yields each graph without and with huge pages, its prompt read."""
    length = args.context + args.steps + 1
    for graph in args.graphs:
        for huge in (False, True):
            with nullcontext() if huge else _small_pages():
                runner = OnnxRunner(graph, max_batch=1, max_length=length, threads=args.threads)
            runner.prefill(0, np.arange(args.context) % runner.vocab_size)
            yield graph, huge, runner


@contextmanager
def _small_pages() -> Iterator[None]:
    with mock.patch.object(runners, "huge_pages", nullcontext):
        yield


def _turns(sessions: list[OnnxRunner], steps: int) -> np.ndarray:
    """Returns seconds, [sessions, steps]; one more step of each comes first."""
    times = np.zeros((len(sessions), steps + 1))
    for step in range(steps + 1):
        for place, session in enumerate(sessions):
            start = time.perf_counter()
            session.decode(np.array([5]))
            times[place, step] = time.perf_counter() - start
    return times[:, 1:]


def _rows(sessions: list[tuple[Path, bool]], times: np.ndarray) -> list[dict[str, Any]]:
    """Returns a row for each graph; the ratio is the median of pairs of steps that followed each other."""
    medians = 1e3 * np.median(times, axis=1)
    return [
        {
            "graph": str(graph),
            "small_ms": float(medians[place]),
            "huge_ms": float(medians[place + 1]),
            "ratio": float(np.median(times[place + 1] / times[place])),
        }
        for place, (graph, huge) in enumerate(sessions)
        if not huge
    ]


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.huge_pages",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("graphs", type=Path, nargs="+", help="graphs of `lathe export --to onnx`")
    add("--threads", type=int, default=1, help="[%(default)s]")
    add("--context", type=int, default=500, help="tokens before the steps [%(default)s]")
    add("--steps", type=int, default=60, help="of each session [%(default)s]")
    add("--out", type=Path, default=Path("build/bench/huge-pages.json"), help="[%(default)s]")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
