"""Writes tables of benchmarks/results/search-*.json to docs/search.md: python -m benchmarks.search.page."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.search.table import table, verdict

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "search.md"
_NONE = "No run is recorded yet."
_BEGIN, _END = "<!-- search tables -->", "<!-- end of search tables -->"


def written(page: str, results: Path) -> str:
    """Returns the page with the tables of the documents in a folder between its marks."""
    before, _, rest = page.partition(_BEGIN)
    parts = [_part(file) for file in sorted(results.glob("search-*.json"))] or [_NONE]
    return "\n\n".join([f"{before}{_BEGIN}", *parts, f"{_END}{rest.partition(_END)[2]}"])


def _part(file: Path) -> str:
    """Returns what one document says: its command, its tables, and where the default is not first."""
    document = json.loads(file.read_text(encoding="utf-8"))
    rows, machine = document["rows"], document["machine"]
    lines = [f"### {file.stem.removeprefix('search-')}", "", f"`{document['command']}`"]
    lines += [
        f"({machine['processor']}; [rows](../benchmarks/results/{file.name}))",
        "",
        table(rows),
    ]
    return "\n".join([*lines, "", *verdict(rows)]).strip()


def main() -> None:
    """Writes the page."""
    PAGE.write_text(
        written(PAGE.read_text(encoding="utf-8"), ROOT / "benchmarks" / "results"), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
