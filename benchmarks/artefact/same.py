"""Are the artefacts of this tree those of an earlier commit, byte for byte?

    python -m benchmarks.artefact.same --revision e9967fa [--cases keep,int4]

Compresses the demo model with this tree and with a checkout of the revision: same input, same options, same
seed, and for a latency target the same profile. Prints one JSON document: which files of the artefacts are
equal, and which differ. Reports and the trace hold times, the manifest hashes; model files are source code.
The exit status is 1 if any other file differs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.source_tree import ROOT, SourceTree, checkout

MODEL = ROOT / "demo" / "model"
TEXT = ("--calibration", str(ROOT / "demo" / "heldout.txt"), "--calibration-tokens", "2048")
CASES: dict[str, tuple[str, ...]] = {
    "keep": ("--keep", "60%"),
    "quick-int4": ("--keep", "70%", "--method", "quick", "--quantize", "int4"),
    "paper": ("--keep", "70%", "--method", "paper", "--evaluations", "40"),
    "target": ("--target-speedup", "1.4x", "--tolerance", "10"),
}
TIMED = ("report.json", "report.html", "trace.jsonl", "manifest.json", "options.json")
"""Files that hold times, paths or hashes of others."""


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--revision", default="e9967fa", help="the commit to compare with")
    parser.add_argument("--cases", default=",".join(CASES), help="some of them, with commas")
    args = parser.parse_args()
    result: dict[str, Any] = {"revision": args.revision, "cases": {}}
    with tempfile.TemporaryDirectory() as scratch:
        before = checkout(args.revision, Path(scratch) / "tree")
        for name in args.cases.split(","):
            result["cases"][name] = _case(name, before, Path(scratch) / name)
    print(json.dumps(result, indent=1))
    return int(any(case["different"] for case in result["cases"].values()))


def _case(name: str, before: SourceTree, folder: Path) -> dict[str, list[str]]:
    folder.mkdir()
    now = SourceTree(ROOT, "HEAD")
    options = [*CASES[name], *TEXT]
    if name == "target":
        profile = folder / "profile.json"
        _lathe(now, folder, "profile", str(MODEL), "-o", str(profile))
        options += ["--profile", str(profile)]
    outs = {}
    for side, tree in (("before", before), ("now", now)):
        outs[side] = folder / side
        _lathe(tree, folder, "compress", str(MODEL), *options, "-o", str(outs[side]))
    return compared(outs["before"], outs["now"])


def compared(before: Path, now: Path) -> dict[str, list[str]]:
    """The files of two artefacts: equal, different, on one side only, and those that may differ and do."""
    old, new = _contents(before), _contents(now)
    both = sorted(old.keys() & new.keys())
    differing = [name for name in both if old[name] != new[name]]
    may = [name for name in differing if name in TIMED or name.endswith(".py")]
    return {
        "equal": [name for name in both if name not in differing],
        "different": [name for name in differing if name not in may],
        "may_differ": may,
        "only_before": sorted(old.keys() - new.keys()),
        "only_now": sorted(new.keys() - old.keys()),
    }


def _contents(directory: Path) -> dict[str, bytes]:
    files = (file for file in directory.rglob("*") if file.is_file())
    return {file.relative_to(directory).as_posix(): file.read_bytes() for file in files}


def _lathe(tree: SourceTree, folder: Path, *arguments: str) -> None:
    """Run the command line of a tree, its caches apart."""
    environment = tree.environment(folder / "cache") | {"OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        tree.command(*arguments), cwd=tree.path, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{tree.path}: {' '.join(arguments)}\n{done.stderr[-2000:]}")


if __name__ == "__main__":
    sys.exit(main())
