"""The table of versions: what the JUnit files of several environments say is what it shows."""

from __future__ import annotations

import json
from pathlib import Path

from test_families_table import PASSED

from benchmarks.compat import COLUMNS, START, document, holds, shown, table
from benchmarks.families import fill
from lathe.compressor.model.families import families


def junit(file: Path, cases: list[tuple[str, str]], state: str = "") -> None:
    passed = PASSED.format(difference=2e-6, state=state)
    rows = [passed.replace('"onnx"', f'"{kind}"').replace("llama, tied", case) for kind, case in cases]
    file.write_text(f"<testsuites><testsuite>{''.join(rows)}</testsuite></testsuites>")


def run(directory: Path) -> None:
    """A run in which all is right."""
    for environment in {column.environment for column in COLUMNS}:
        kinds = [kind for column in COLUMNS if column.environment == environment for kind in column.exporters]
        cases = [(kind, f"{name}, tied") for kind in kinds for name in families.known()]
        junit(directory / f"{environment}.families.xml", cases)
        packages = {column.package: "1.2.3" for column in COLUMNS if column.environment == environment}
        lines = [f"{package}=={version}" for package, version in packages.items()]
        (directory / f"{environment}.versions").write_text("\n".join(lines))


def test_a_column_names_its_version_and_a_cell_what_passed(tmp_path: Path) -> None:
    run(tmp_path)
    made = document(tmp_path, "2026-11-28")
    assert made["columns"] == [f"{column.package} 1.2.3" for column in COLUMNS]
    assert holds(made)
    llama = dict(zip(made["columns"], made["families"]["llama"], strict=True))
    assert shown(llama["transformers 1.2.3"]) == "1 of 1, 2e-06"
    assert "| llama | 1 of 1, 2e-06 |" in table(made)


def test_one_wrong_case_is_told(tmp_path: Path) -> None:
    run(tmp_path)
    junit(tmp_path / "newest.more.xml", [("checkpoint", "opt, other")], '<failure message="no"/>')
    made = document(tmp_path, "2026-11-28")
    assert not holds(made)
    assert "**wrong** 1 of 2" in table(made)
    assert made["families"]["opt"][1]["failed"] == ["opt, other"]


def test_a_family_without_tests_is_not_right(tmp_path: Path) -> None:
    run(tmp_path)
    (tmp_path / "vllm.families.xml").unlink()
    made = document(tmp_path, "2026-11-28")
    assert shown(made["families"]["llama"][-1]) == "not run"
    assert not holds(made)


def test_a_wheel_that_lacks_a_name_is_told(tmp_path: Path) -> None:
    run(tmp_path)
    wheel = {"wheel": "vllm 0.33.0", "checked": 3, "missing": ["a.b"]}
    (tmp_path / "wheels.jsonl").write_text(json.dumps(wheel) + "\n")
    made = document(tmp_path, "2026-11-28")
    assert not holds(made)
    assert "| source of vllm 0.33.0 | 2 of 3 names |" in table(made)


def test_the_page_of_versions_takes_the_table(tmp_path: Path) -> None:
    run(tmp_path)
    page = tmp_path / "page.md"
    page.write_text((Path(__file__).parents[2] / "docs" / "compatibility.md").read_text())
    made = table(document(tmp_path, "2026-11-28"))
    fill(page, made, START)
    assert f"{START}\n{made}\n\n## transformers" in page.read_text()


def test_what_a_version_is_too_old_for_is_refused_and_not_wrong(tmp_path: Path) -> None:
    run(tmp_path)
    junit(tmp_path / "oldest.more.xml", [("onnx", "mixtral, other")], "<skipped/>")
    made = document(tmp_path, "2026-11-28")
    assert holds(made)
    assert shown(made["families"]["mixtral"][2]) == "3 of 3, 2e-06, 1 refused"
