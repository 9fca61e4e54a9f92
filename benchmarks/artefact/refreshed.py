"""An artefact as an earlier version wrote it, and after `lathe refresh`: what each is on this transformers.

    python -m benchmarks.artefact.refreshed build/demo/artefact [--revision 6d53d4b]

Gives a copy of the artefact the model files of a revision of this repository, checks it as
`make check-artefact` does, refreshes the copy, and checks it again. Prints one JSON document; exit status 1
if the refreshed copy is not right.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import transformers

from benchmarks.artefact import check
from lathe.artefact.manifest import write_manifest
from lathe.artefact.shipped_files import SHIPPED_FILES
from lathe.compressor.export.refresh import refresh

ROOT = Path(__file__).resolve().parents[2]


def aged(artefact: Path, copy: Path, revision: str) -> None:
    """Copy an artefact, with the model files that a revision would have shipped."""
    shutil.copytree(artefact, copy)
    kind = json.loads((artefact / "config.json").read_text())["model_type"]
    for file in SHIPPED_FILES[kind]:
        (copy / file.name).write_bytes(_stored(revision, file.name))
    write_manifest(copy)


def _stored(revision: str, name: str) -> bytes:
    """The content of the one file of a revision that has this name, whichever folder it was in."""
    listed = _git("ls-tree", "-r", "--name-only", revision).decode().splitlines()
    (path,) = (path for path in listed if Path(path).name == name)
    return _git("show", f"{revision}:{path}")


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", "-C", ROOT, *arguments], check=True, capture_output=True).stdout


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("artefact", type=Path)
    parser.add_argument("--revision", default="6d53d4b", help="whose model files the copy gets first")
    args = parser.parse_args()
    result: dict[str, Any] = {"transformers": transformers.__version__, "revision": args.revision}
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "artefact"
        aged(args.artefact, copy, args.revision)
        result["before"] = check.checked(copy)
        result["replaced"] = refresh(copy).replaced
        result["refreshed"] = check.checked(copy)
    result["new"] = check.checked(args.artefact)
    print(json.dumps(result, indent=1))
    return int(not all(check.right(result[name]) for name in ("refreshed", "new")))


if __name__ == "__main__":
    sys.exit(main())
