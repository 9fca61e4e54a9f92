"""What engines gain by the zeros of a pattern: a step of the dense model against one of the pruned model.

    python -m benchmarks.patterns.speed --model dir --backends onnx,onnx-int8,torch

Both are exported and take turns in the engine. Weights are chosen by magnitude: where the zeros are makes no
difference to time. Writes JSON (build/bench/patterns-speed.json) and prints a table.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.patterns.table import speed_table
from lathe.artefact.atomic_files import write_json
from lathe.artefact.errors import UserError
from lathe.artefact.fingerprint import fingerprint
from lathe.compressor.compute.progress import Progress
from lathe.compressor.export import Export, exporters
from lathe.compressor.latency.backend import backends, versions_here
from lathe.compressor.latency.measure import LatencyBenchmark
from lathe.compressor.latency.workload import Workload
from lathe.compressor.model.checkpoint import Checkpoint, open_checkpoint
from lathe.compressor.model.pattern import Pattern
from lathe.compressor.reconstruction.patterns.choice import highest

_FLOATS = {"onnx": "float32", "torch": "float32"}


def main() -> int:
    """Returns the exit status."""
    args = _arguments()
    try:
        source, pattern = open_checkpoint(args.model), Pattern.parse(args.pattern)
        pattern.check(source.shape, source.shape.dense_plan, source.name)
        rows = [_row(args, source, pattern, name) for name in args.backends.split(",")]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    document = {
        "command": shlex.join(["python", "-m", "benchmarks.patterns.speed", *sys.argv[1:]]),
        "model": args.model,
        "pattern": args.pattern,
        "metric": "tpot",
        "context": args.context,
        "rows": rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.out, document)
    print(speed_table(rows))
    return 0


def _row(args: argparse.Namespace, source: Checkpoint, pattern: Pattern, name: str) -> dict[str, Any]:
    """Returns what an engine takes for both models.

    Raises:
        UserError: it is not installed, or does not know the model.
    """
    backend = backends.get(name)
    exporter = exporters.get(backend.export)
    workload = Workload(context=args.context)
    benchmark = LatencyBenchmark(source, backend, workload, args.threads, Progress(), args.seconds)
    dense = Export.whole(source)
    jobs = {"dense": dense, "pattern": replace(dense, tensor=_pruned(source, pattern))}
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for kind, job in jobs.items():
            (Path(folder) / kind).mkdir()
            exporter.write(Path(folder) / kind, job)
            paths[kind] = Path(folder) / kind / exporter.folder
        sizes = {f"{kind}_bytes": _size(path) for kind, path in paths.items()}
        found = benchmark.compare_built(paths["dense"], paths["pattern"], title=f"measure: {name}")
    return {
        "engine": name.partition("-")[0],
        "weights": _FLOATS.get(name) or name.partition("-")[2],
        "dense_ms": found.dense.median,
        "pattern_ms": found.subnet.median,
        "ratio": found.ratio,
        "standard_error": found.paired.standard_error,
        **sizes,
        "machine": fingerprint(versions_here(backend), args.threads),
    }


def _pruned(source: Checkpoint, pattern: Pattern) -> Callable[[str], torch.Tensor]:
    """Returns what gives the tensors by name, the matrices of layers pruned by magnitude."""

    def tensor(name: str) -> torch.Tensor:
        value = source.tensor(name)
        if ".layers." not in name or value.dim() != 2:
            return value
        return value * highest(value.abs(), pattern)

    return tensor


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.patterns.speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", required=True, help="a checkpoint's directory")
    add("--pattern", default="2:4", help="N:M [%(default)s]")
    add("--backends", default="onnx,onnx-int8,torch", help="with commas [%(default)s]")
    add("--threads", type=int, help="of the engine [all cores]")
    add("--context", type=int, default=256, help="tokens in the cache [%(default)s]")
    add("--seconds", type=float, default=60.0, help="half of it for each engine [%(default)s]")
    add("--out", type=Path, default=Path("build/bench/patterns-speed.json"), help="[%(default)s]")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
