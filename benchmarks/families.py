"""Which family passed which exporter's tests, from the JUnit files of one run of them.

    make families-table

Prints the table, and writes it to docs/families.md and, with the outcome of every case and the largest
difference from the reference, to build/families.json. Exit status 1 when a test failed, or when an exporter
knows a family that none of its tests ran on.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from lathe.compressor.export import exporters
from lathe.compressor.model.families import families

COMMAND = "make families-table"
COMPRESS = "compress"
"""The whole command, a column beside the exporters."""
PASSED, FAILED, NOT_RUN = "passed", "failed", "not run"
START = "<!-- families: made by `make families-table` -->"


@dataclass(frozen=True)
class Outcome:
    """Of one test. difference: from its reference, where it got that far."""

    exporter: str
    case: str
    state: str
    difference: float | None

    @property
    def family(self) -> str:
        return self.case.split(",")[0]


def outcomes(file: Path) -> Iterator[Outcome]:
    """Of the tests that say what they show; of others only failures matter.

    Raises:
        SystemExit: one failed before it could say what it shows.
    """
    for test in ElementTree.parse(file).iter("testcase"):
        said = {entry.get("name"): entry.get("value", "") for entry in test.iter("property")}
        failed = test.find("failure") is not None or test.find("error") is not None
        if "case" not in said:
            if failed:
                raise SystemExit(f"{file}: {test.get('classname')}.{test.get('name')} failed")
            continue
        state = FAILED if failed else NOT_RUN if test.find("skipped") is not None else PASSED
        difference = float(said["difference"]) if "difference" in said else None
        yield Outcome(said["exporter"], said["case"], state, difference)


def document(found: list[Outcome]) -> dict[str, Any]:
    """By family and column: whether it is supported, counts of tests, the largest difference, every case."""
    rows: dict[str, Any] = {}
    for name in families.known():
        family, row = families.get(name), {}
        for column in (*exporters.listed(), COMPRESS):
            mine = [o for o in found if (o.family, o.exporter) == (name, column)]
            differences = [o.difference for o in mine if o.difference is not None]
            row[column] = {
                "supported": column == COMPRESS or exporters.get(column).knows(family),
                "passed": sum(o.state == PASSED for o in mine),
                "tests": len(mine),
                "largest_difference": max(differences, default=None),
                "cases": {
                    case: sorted({o.state for o in mine if o.case == case})
                    for case in dict.fromkeys(o.case for o in mine)
                },
            }
        rows[name] = {"models": family.description, "columns": row}
    return {"command": COMMAND, "machine": platform.platform(), "families": rows}


def cell(column: dict[str, Any]) -> str:
    return counted(column) if column["supported"] else "no"


def counted(tests: dict[str, Any]) -> str:
    """How many of some tests passed, and their largest difference from the reference."""
    if not tests["tests"]:
        return NOT_RUN
    largest = tests["largest_difference"]
    note = "" if largest is None else f", {largest:.0e}"
    return f"{tests['passed']} of {tests['tests']}{note}"


def table(rows: dict[str, Any]) -> str:
    columns = [*exporters.listed(), COMPRESS]
    lines = [f"| family | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [
        f"| {name} | {' | '.join(cell(row['columns'][column]) for column in columns)} |"
        for name, row in rows.items()
    ]
    return "\n".join(lines)


def fill(page: Path, made: str, start: str = START) -> None:
    """Put the table in the place of the one that a page has, from the mark `start` to the next empty line."""
    before, after = page.read_text().split(f"{start}\n", 1)
    page.write_text(f"{before}{start}\n{made}\n\n{after.split(chr(10) * 2, 1)[1]}")


def holds(rows: dict[str, Any]) -> bool:
    """Whether all that is supported ran, and passed."""
    columns = [column for row in rows.values() for column in row["columns"].values() if column["supported"]]
    return all(0 < column["tests"] == column["passed"] for column in columns)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="+", type=Path, help="JUnit files of one run")
    parser.add_argument("--out", type=Path, default=Path("build/families.json"))
    parser.add_argument("--page", type=Path, default=Path("docs/families.md"))
    args = parser.parse_args()
    found = document([outcome for file in args.files for outcome in outcomes(file)])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found["families"]))
    fill(args.page, table(found["families"]))
    return int(not holds(found["families"]))


if __name__ == "__main__":
    sys.exit(main())
