"""Latency targets: are they kept, how well does the table predict, and what is it worth?

    make bench-latency BENCH='--shapes 10m,90m,400m --speedups 1.2,1.5,2,3'

1. *targets*: for every shape (random weights) and speed-up, the product's closed loop, then the artefact
   timed anew, interleaved with dense.
2. *predictions*: random plans, table sum against whole model.
3. *aware*: a trained model; at one latency, the plan by milliseconds against the plan by parameters.

Nothing is taken from earlier measurements of the machine. Writes build/bench/latency.json after every row and
prints tables. Rows that the file already has are not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.latency import aware, predictions, targets
from benchmarks.latency.shapes import SHAPES, write_shape
from benchmarks.latency.targets import Subject
from lathe.artefact.atomic_files import write_json
from lathe.artefact.fingerprint import fingerprint
from lathe.compressor.compute.progress import Progress
from lathe.compressor.latency.backend import backends
from lathe.compressor.latency.workload import Workload

Row = dict[str, Any]


class Book:
    """The JSON file; sections of rows, written as they come."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.sections: dict[str, list[Row]] = {"targets": [], "predictions": [], "aware": []}
        if path.is_file():
            self.sections |= json.loads(path.read_text())["sections"]

    def add(self, section: str, machine: dict[str, object], rows: Iterator[Row]) -> None:
        for row in rows:
            self.sections[section].append(row | {"machine": machine})
            self._path.parent.mkdir(parents=True, exist_ok=True)
            command = shlex.join(["python", "-m", "benchmarks.latency", *sys.argv[1:]])
            write_json(self._path, {"command": command, "sections": self.sections})

    def has(self, section: str, **facts: Any) -> bool:
        return any(all(row[k] == v for k, v in facts.items()) for row in self.sections[section])


def main() -> None:
    args = _arguments()
    book, progress = Book(args.out), Progress()
    with tempfile.TemporaryDirectory(prefix="lathe-bench-") as root:
        os.environ["LATHE_CACHE"] = str(Path(root) / "cache")
        for backend in args.backends.split(","):
            machine = fingerprint(backends.get(backend).versions(), args.threads)
            for shape in args.shapes.split(",") if args.shapes else []:
                subject = Subject(
                    shape, write_shape(shape, Path(root)), backend, _workload(args), args.threads, Path(root)
                )
                wanted = [float(s) for s in args.speedups.split(",") if s]
                missing = [
                    s
                    for s in wanted
                    if not book.has("targets", model=shape, backend=backend, speedup=s, **_facts(args))
                ]
                book.add("targets", machine, targets.rows(subject, missing, progress))
                if args.plans and not book.has("predictions", model=shape, backend=backend, **_facts(args)):
                    book.add("predictions", machine, predictions.rows(subject, args.plans, progress))
        asked = Workload("tpot", args.aware_batch_size, args.aware_context)
        model = Path(args.model)
        facts = {"batch_size": asked.batch_size, "context": asked.context}
        if args.model and not book.has("aware", model=model.name, **facts):
            machine = fingerprint(backends.get("onnx").versions(), args.threads)
            book.add(
                "aware",
                machine,
                aware.rows(
                    model,
                    args.text,
                    args.eval,
                    asked,
                    args.aware_speedup,
                    Path(root),
                    args.tokens,
                    args.windows,
                    progress,
                ),
            )
    for title, show in (("targets", _targets), ("predictions", _predictions), ("aware", _aware)):
        _print(title, show, book.sections[title])


def _workload(args: argparse.Namespace) -> Workload:
    return Workload(args.metric, args.batch_size, args.context)


def _facts(args: argparse.Namespace) -> dict[str, Any]:
    return {"metric": args.metric, "batch_size": args.batch_size, "context": args.context}


def _print(title: str, show: Callable[[list[Row]], Iterator[str]], rows: list[Row]) -> None:
    if rows:
        print(f"\n{title}\n" + "\n".join(show(rows)))


def _targets(rows: list[Row]) -> Iterator[str]:
    yield "| model | backend | speed-up | dense ms | target | predicted | measured | over target | rounds |"
    yield "|---" * 9 + "|"
    for r in rows:
        yield (
            f"| {r['model']} | {r['backend']} | {r['speedup']}x | {r['dense_ms']:.4g} | {r['target_ms']:.4g} "
            f"| {r['predicted_ms']:.4g} | {r['measured_ms']:.4g} | {r['measured_over_target']:.3f} "
            f"| {r['rounds']} |"
        )
    over = [r["measured_over_target"] for r in rows]
    once = sum(r["rounds"] == 1 for r in rows) / len(rows)
    yield (
        f"measured/target: median {median(over):.3f}, from {min(over):.3f} to {max(over):.3f}; "
        f"one round was enough for {once:.0%}"
    )


def _predictions(rows: list[Row]) -> Iterator[str]:
    for key in sorted({(r["model"], r["backend"]) for r in rows}):
        errors = sorted(r["error"] for r in rows if (r["model"], r["backend"]) == key)
        sizes = sorted(abs(e) for e in errors)
        yield (
            f"{key[0]} on {key[1]}: {len(errors)} plans, error median {median(errors):+.1%}, size median "
            f"{median(sizes):.1%}, nine of ten within {sizes[int(0.9 * (len(sizes) - 1))]:.1%}, "
            f"most {sizes[-1]:.1%}"
        )


def _aware(rows: list[Row]) -> Iterator[str]:
    yield "| model | workload | plan by | speed-up | kept | loss increase | KL |"
    yield "|---" * 7 + "|"
    for r in rows:
        yield (
            f"| {r['model']} | {r['metric']}, batch {r['batch_size']}, context {r['context']} "
            f"| {r['plan_by']} | {r['speedup_measured']:.2f}x | {r['kept']:.1%} | {r['increase']:.4f} "
            f"| {r['kl']:.4f} |"
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", default="10m,90m,400m", help=f"of {', '.join(SHAPES)}; empty: none")
    parser.add_argument("--speedups", default="1.2,1.5,2,3", help="targets; empty: none")
    parser.add_argument("--backends", default="onnx")
    parser.add_argument("--metric", default="tpot")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--plans", type=int, default=20, help="random plans to predict, per shape")
    parser.add_argument("--model", default="demo/model", help="trained, for `aware`; empty: none")
    parser.add_argument("--text", default="self", help="its calibration text")
    parser.add_argument("--eval", default="demo/heldout.txt", help="text to score it on")
    parser.add_argument("--aware-speedup", type=float, default=1.6)
    parser.add_argument("--aware-batch-size", type=int, default=8)
    parser.add_argument("--aware-context", type=int, default=960)
    parser.add_argument("--tokens", type=int, default=16_384, help="calibration tokens for `aware`")
    parser.add_argument("--windows", type=int, default=48, help="evaluation windows for `aware`")
    parser.add_argument("--out", type=Path, default=Path("build/bench/latency.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
