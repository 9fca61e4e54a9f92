"""`lathe compress` of this tree beside that of another commit: time, memory and quality, stage by stage.

    make bench-compress MODEL=dir TEXT=calibration EVAL=heldout BENCH='--layers 6'
    make bench-compress MODEL=dir TEXT=calibration EVAL=heldout BENCH='--memory --model random-500m'

Both compress the same model to the same target with the same text, in processes of their own, and take
turns: one runs a stage while the other is stopped, so that other load and drift hit both. Time stopped does
not count. A stage's figures are of everything since the last one ended: wall time, CPU time and peak resident
memory, read from outside. Nothing is resumed and no cache of the user is read. Both are in memory together.

With --memory this tree compresses one model after the other, alone.

A speed-up is of the dense model as each side times it; where they differ in that, their losses are of
different targets. --target-latency gives both the same.

Writes a JSON document after every round or model, and prints a table. `random-500m` is a model of random
weights with the shape of Qwen2-0.5B. The exit status is 1 where a run fails.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.compress import compare, memory
from benchmarks.compress.models import RANDOM
from benchmarks.source_tree import ROOT
from lathe.artefact.atomic_files import write_json
from lathe.artefact.errors import UserError
from lathe.serving.loadtest.document import machine

_PACKAGES = ("lathe", "torch", "transformers", "onnxruntime", "numpy")
_SELF = "self"
_RESULTS = ROOT / "benchmarks" / "results"


def main() -> int:
    """Returns the exit status."""
    args = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        _check(args)
        args.work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="compress-", dir=args.work) as scratch:
            benchmark = memory.documents if args.memory else compare.documents
            return _written(args, benchmark(args, Path(scratch).resolve()))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _written(args: argparse.Namespace, documents: Iterator[dict[str, Any]]) -> int:
    """Writes and prints every state of the document; returns the exit status."""
    document: dict[str, Any] = {}
    for document in documents:
        document = _preamble(args) | document
        out = args.out or _RESULTS / f"compress-{document['name']}.json"
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, document)
        print(f"written to {out}", file=sys.stderr)
    if args.json:
        print(json.dumps(document, indent=1))
    else:
        print("\n".join((memory if args.memory else compare).lines(document)))
    return int(bool(document["failed"]))


def _preamble(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "command": shlex.join(["python", "-m", "benchmarks.compress", *sys.argv[1:]]),
        "machine": machine(),
        "versions": {"python": sys.version.split()[0]} | {name: version(name) for name in _PACKAGES},
        "environment": {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")},
        "settings": {
            "target": " ".join(args.target),
            "tokens": args.tokens,
            "text": args.text,
            "evaluation": str(args.evaluation),
        },
        "definitions": {
            "wall_seconds": "from the end of the last stage to the end of this one, without the time stopped",
            "cpu_seconds": "user and system time of all of its processes in that time",
            "peak_bytes": "the highest resident memory of all of its processes in that time",
            "loss_increase": "nats per token, subnet over dense, on the same windows of the evaluation text",
            "ratios": "ours / baseline, the median over rounds",
        },
    }


def _check(args: argparse.Namespace) -> None:
    """Checks what is cheap to check.

    Raises:
        UserError: a text is missing, or a number makes no sense.
    """
    if args.text != _SELF:
        args.text = str(_resolved("--text", args.text))
    args.evaluation = _resolved("--evaluation", args.evaluation)
    if args.rounds < 1:
        raise UserError(f"--rounds {args.rounds} is too few", "Give at least 1.")
    if args.memory and args.rounds > 1:
        raise UserError("--rounds is for a comparison", "Leave it or --memory out.")


def _resolved(option: str, text: str) -> Path:
    """Returns the path of a text from any directory.

    Raises:
        UserError: it is not there.
    """
    if not Path(text).exists():
        raise UserError(f"{option} {text} is not there", "Give a text file or a folder of them.")
    return Path(text).resolve()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compress",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", action="append", required=True, help=f"a checkpoint's directory, or {RANDOM}")
    add("--text", required=True, help="to calibrate on: a file, a folder, or `self`, which the model writes")
    add("--evaluation", required=True, help="to take the loss on: a file or a folder")
    add("--tokens", type=int, default=32_768, help="of the calibration text [32768]")
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--target-speedup", help="over dense, as each side measures it [1.5x]")
    target.add_argument("--target-latency", help="milliseconds, the same for both sides: 12ms")
    add("--layers", type=int, help="only the first of the model's; both sides get the same [all]")
    add("--baseline", default="6d53d4b", metavar="REV", help="the commit to compare with [6d53d4b]")
    add("--rounds", type=int, default=1, help="comparisons; who begins alternates [1]")
    add("--memory", action="store_true", help="this tree alone; --model may be given several times")
    add("--work", type=Path, default=ROOT / "build" / "bench", help="scratch, removed at the end")
    add("--out", type=Path, help="[benchmarks/results/compress-MODEL.json]")
    add("--json", action="store_true", help="print the document instead of tables")
    args = parser.parse_args()
    args.target = ("--target-latency", args.target_latency)
    if args.target_latency is None:
        args.target = ("--target-speedup", args.target_speedup or "1.5x")
    return args


if __name__ == "__main__":
    sys.exit(main())
