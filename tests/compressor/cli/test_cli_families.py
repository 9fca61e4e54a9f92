"""`lathe families`: every family, what it covers, and a yes or no for every exporter."""

from __future__ import annotations

import json
import re
from pathlib import Path

from lathe.compressor.export import exporters
from lathe.compressor.model.families import families
from support.compress_command import lathe

PAGE = Path(__file__).parents[3] / "docs" / "families.md"


def test_the_list_is_complete() -> None:
    shown = lathe("families", "--json")
    assert shown.exit_code == 0, shown.output
    rows = {row["family"]: row for row in json.loads(shown.stdout)["families"]}
    assert list(rows) == families.known()
    for name, row in rows.items():
        assert row["models"] == families.get(name).description
        assert list(row["exporters"]) == exporters.listed()
    assert all(rows["llama"]["exporters"].values())
    missing = [name for name, can in rows["mixtral"]["exporters"].items() if not can]
    assert missing == ["gguf", "onnx-mixed"], "experts are not rounded block by block"


def test_the_page_of_tests_says_the_same() -> None:
    """docs/families.md, which `make families-table` makes of the tests' outcomes."""
    lines = [line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    shown = {family: dict(zip(lines[0][1:], cells, strict=True)) for family, *cells in lines[1:]}
    rows = {
        row["family"]: row["exporters"] | {"compress": True}
        for row in json.loads(lathe("families", "--json").stdout)["families"]
    }
    assert list(shown) == list(rows)
    for family, said in rows.items():
        for column, can in said.items():
            cell = re.fullmatch(r"no|(\d+) of (\d+)(, \de-\d+)?", shown[family][column])
            assert cell, (family, column)
            assert bool(cell[1]) == can
            assert cell[1] == cell[2]


def test_the_table_names_every_family() -> None:
    shown = lathe("families")
    assert all(name in shown.stdout for name in families.known())
    assert "all but gguf, onnx-mixed" in " ".join(shown.stdout.split())
