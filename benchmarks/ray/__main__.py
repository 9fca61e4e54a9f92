"""What a second worker saves: a compression in one process with one core, and by two workers with one each.

    make bench-ray MODEL=dir BENCH='--tokens 65536 --rounds 2'

Runs alternate. Wall time is of the whole command, imports and the cluster's start included; seconds by stage
are its own. Artefacts are compared file by file. Writes build/bench/ray.json and prints a table.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from lathe.artefact.atomic_files import write_json
from lathe.serving.loadtest.document import machine

RUN = "from lathe.cli import compress; compress()"
TIMED = {"report.json", "report.html", "trace.jsonl", "manifest.json"}
"""Files of an artefact that tell times."""


def main() -> None:
    args = _arguments()
    spread = ["--ray", f"local:{args.workers}", "--worker-threads", "1"]
    setups: dict[str, list[str]] = {"one process": [], f"{args.workers} workers": spread}
    runs: list[dict[str, Any]] = []
    for number in range(args.rounds):
        for name in list(setups)[:: 1 if number % 2 == 0 else -1]:
            runs.append({"setup": name} | _run(args, setups[name]))
            _print(runs, list(setups))
    document = {
        "command": shlex.join(["python", "-m", "benchmarks.ray", *sys.argv[1:]]),
        "machine": machine(),
        "runs": runs,
        "identical": len({run["artefact"] for run in runs}) == 1,
        "wall_ratio": _wall(runs, f"{args.workers} workers") / _wall(runs, "one process"),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.out, document)
    print(f"artefacts {'identical' if document['identical'] else 'DIFFERENT'}")
    print(f"wall time x{document['wall_ratio']:.3f}")


def _run(args: argparse.Namespace, options: list[str]) -> dict[str, Any]:
    """One compression, on as many cores as it has processes that compute."""
    out = args.work / "out"
    shutil.rmtree(args.work, ignore_errors=True)
    command = [
        sys.executable,
        "-c",
        RUN,
        args.model,
        "--keep",
        args.keep,
        "--export",
        "checkpoint",
        "--context",
        "64",
        "--calibration",
        args.text,
        "--calibration-tokens",
        str(args.tokens),
        "-o",
        str(out),
        "--json",
        *options,
    ]
    cores = sorted(os.sched_getaffinity(0))[: args.workers if options else 1]
    start = time.perf_counter()
    done = subprocess.run(
        ["taskset", "--cpu-list", ",".join(map(str, cores)), *command],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    wall = time.perf_counter() - start
    report = json.loads(done.stdout)
    digest = hashlib.sha256()
    for file in sorted(path for path in out.rglob("*") if path.is_file() and path.name not in TIMED):
        digest.update(file.relative_to(out).as_posix().encode() + file.read_bytes())
    return {
        "wall_seconds": round(wall, 2),
        "seconds": report["seconds"],
        "artefact": digest.hexdigest()[:16],
        "peak_memory_bytes": report["peak_memory_bytes"],
        "load_average": os.getloadavg()[0],
    }


def _wall(runs: list[dict[str, Any]], setup: str) -> float:
    return median(run["wall_seconds"] for run in runs if run["setup"] == setup)


def _print(runs: list[dict[str, Any]], setups: list[str]) -> None:
    """Medians of the runs so far, by stage."""
    stages = dict.fromkeys(stage for run in runs for stage in run["seconds"])
    print(f"{'seconds':48}" + "".join(f"{name:>14}" for name in setups))
    for stage in stages:
        cells = [[r["seconds"].get(stage, 0.0) for r in runs if r["setup"] == name] for name in setups]
        print(f"{stage:48}" + "".join(f"{median(cell):14.1f}" if cell else f"{'':14}" for cell in cells))
    walls = [[r["wall_seconds"] for r in runs if r["setup"] == name] for name in setups]
    total = "".join(f"{median(wall):14.1f}" if wall else f"{'':14}" for wall in walls)
    print(f"{'wall':48}{total}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo/model")
    parser.add_argument("--text", default="demo/heldout.txt", help="to calibrate on")
    parser.add_argument("--tokens", type=int, default=65_536, help="of it")
    parser.add_argument("--keep", default="70%")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2, help="of each setup")
    parser.add_argument("--work", type=Path, default=Path("build/ray"))
    parser.add_argument("--out", type=Path, default=Path("build/bench/ray.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
