"""The table of families: what a run's JUnit file says is what it shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.families import START, cell, document, fill, holds, outcomes, table
from lathe.compressor.export.vllm import ACTIVATIONS

PASSED = """
<testcase classname="a" name="b"><properties>
<property name="exporter" value="onnx"/><property name="case" value="llama, tied"/>
<property name="difference" value="{difference}"/></properties>{state}</testcase>
"""


def junit(directory: Path, *cases: str) -> Path:
    file = directory / "junit.xml"
    file.write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
    return file


def test_a_cell_counts_tests_and_has_the_largest_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(ACTIVATIONS, "lathe_moe")
    states = ("", "", '<failure message="no"/>', "<skipped/>")
    cases = [PASSED.format(difference=n * 1e-6, state=state) for n, state in enumerate(states, 1)]
    rows = document(list(outcomes(junit(tmp_path, *cases, '<testcase name="other"/>'))))["families"]
    onnx = rows["llama"]["columns"]["onnx"]
    assert cell(onnx) == "2 of 4, 4e-06"
    assert onnx["cases"] == {"llama, tied": ["failed", "not run", "passed"]}
    assert cell(rows["llama"]["columns"]["vllm"]) == "not run"
    assert cell(rows["mixtral"]["columns"]["vllm"]) == "no"
    assert not holds(rows)


def test_a_failure_before_a_test_says_what_it_shows_is_not_lost(tmp_path: Path) -> None:
    broken = '<testcase classname="families" name="setup"><error message="no"/></testcase>'
    with pytest.raises(SystemExit, match=r"families\.setup failed"):
        list(outcomes(junit(tmp_path, broken)))


def test_the_page_gets_the_new_table_alone(tmp_path: Path) -> None:
    page, rows = tmp_path / "page.md", document([])["families"]
    page.write_text(f"Before.\n\n{START}\n| old |\n|---|\n\nAfter.\n\nMore.\n")
    fill(page, table(rows))
    assert page.read_text() == f"Before.\n\n{START}\n{table(rows)}\n\nAfter.\n\nMore.\n"
