"""Writes tables of benchmarks/results/search-*.json to docs/search.md: python -m benchmarks.search.page."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.search.table import table, verdict

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "search.md"
_NONE = "No run is recorded yet."
_SEED = re.compile(r"-seed\d+$")
_BEGIN, _END = "<!-- search tables -->", "<!-- end of search tables -->"


def written(page: str, results: Path) -> str:
    """Returns the page with the tables of the documents in a folder between its marks.

    Documents whose names end in `-seed` and a number are one model's, of these seeds.
    """
    before, _, rest = page.partition(_BEGIN)
    models: dict[str, list[Path]] = {}
    for file in sorted(results.glob("search-*.json")):
        models.setdefault(_SEED.sub("", file.stem).removeprefix("search-"), []).append(file)
    parts = [_part(model, files) for model, files in models.items()] or [_NONE]
    return "\n\n".join([f"{before}{_BEGIN}", *parts, f"{_END}{rest.partition(_END)[2]}"])


def _part(model: str, files: Sequence[Path]) -> str:
    """Returns what a model's documents say: a command, the tables, and where the default is not first."""
    documents = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    rows = [row for document in documents for row in document["rows"]]
    links = ", ".join(f"[rows](../benchmarks/results/{file.name})" for file in files)
    machine = documents[0]["machine"]["processor"]
    lines = [f"### {model}", "", f"`{documents[0]['command']}`", f"({machine}; {links})", "", table(rows)]
    return "\n".join([*lines, "", *verdict(rows)]).strip()


def main() -> None:
    """Writes the page."""
    PAGE.write_text(
        written(PAGE.read_text(encoding="utf-8"), ROOT / "benchmarks" / "results"), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
