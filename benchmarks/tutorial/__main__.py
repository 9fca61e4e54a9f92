"""From a fresh clone to a served subnet: the tutorial in a copy of what is committed, timed by section.

    make cold-start

Prints the seconds of each section and writes build/bench/cold-start.json. pip's cache is left as it is unless
--no-pip-cache is given: what a first installation takes is mostly the network's speed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from itertools import groupby
from pathlib import Path

from benchmarks.tutorial.document import TUTORIAL, read
from benchmarks.tutorial.session import MismatchError, Session, environment
from lathe.artefact.fingerprint import fingerprint

ROOT = Path(__file__).parents[2]


def main() -> int:
    args = _arguments()
    with tempfile.TemporaryDirectory(prefix="lathe-cold-") as directory:
        clone = Path(directory) / "lathe"
        seconds = {"Clone": _clone(clone)}
        variables = {"LATHE_CACHE": f"{directory}/cache"}
        if args.no_pip_cache:
            variables["PIP_NO_CACHE_DIR"] = "1"
        shell = environment(**variables)
        shell.pop("PYTHONPATH", None)  # it would hide what the clone installs
        failure = _play(clone, shell, seconds)
    for section, taken in seconds.items():
        print(f"{section:32} {taken:7.1f} s")
    print(f"{'in all':32} {sum(seconds.values()):7.1f} s")
    document = {
        "seconds": seconds,
        "served_after_s": _until_served(seconds),
        "failure": failure,
        "pip_cache": not args.no_pip_cache,
        "machine": fingerprint({}, None),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(document, indent=1) + "\n")
    if failure:
        print(failure, file=sys.stderr)
    return int(failure is not None)


def _clone(to: Path) -> float:
    began = time.monotonic()
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", f"file://{ROOT}", to], check=True)
    return time.monotonic() - began


def _play(clone: Path, variables: dict[str, str], seconds: dict[str, float]) -> str | None:
    """Time every section, until one fails: what it said is then the result."""
    steps = read((clone / TUTORIAL.relative_to(ROOT)).read_text())
    with Session(clone, variables) as session:
        for section, group in groupby(steps, key=lambda step: step.section):
            began = time.monotonic()
            try:
                for step in group:
                    session.run(step)
            except MismatchError as error:
                return str(error)
            seconds[section] = time.monotonic() - began
            session.end_servers()
    return None


def _until_served(seconds: dict[str, float]) -> float | None:
    """From the clone to an answer of the subnet; None where it was not reached."""
    names = list(seconds)
    if "Serve and ask" not in names:
        return None
    return sum(seconds[name] for name in names[: names.index("Serve and ask") + 1])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The tutorial in a fresh clone, timed.")
    parser.add_argument("--no-pip-cache", action="store_true", help="download every package")
    parser.add_argument("--out", type=Path, default=Path("build/bench/cold-start.json"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
