"""family.json: written and read back, and one clear sentence for each way in which it is broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lathe.artefact.errors import UserError
from lathe.artefact.family import FAMILY, Family, FamilyPlan, is_family, read_family, write_family
from lathe.artefact.manifest import MANIFEST

WIDE = FamilyPlan("1.2x", "plans/1.2x", 9.5, 9.6, 0.01)
SMALL = FamilyPlan("2x", "plans/2x", 5, None, 0.2, "code")


def _directories(path: Path, *names: str) -> Path:
    for name in names:
        (path / "plans" / name).mkdir(parents=True)
        (path / "plans" / name / MANIFEST).write_text("{}")
    return path


def _document(path: Path, *plans: Any, written: str = "lathe-family/1") -> Path:
    (path / FAMILY).write_text(json.dumps({"format": written, "plans": list(plans)}))
    return path


def _entry(name: str = "1.2x", **changes: Any) -> dict[str, Any]:
    return {"name": name, "path": f"plans/{name}"} | changes


def test_what_is_written_is_read_back_with_its_facts(tmp_path: Path) -> None:
    _directories(tmp_path, "1.2x", "2x")
    write_family(tmp_path, [WIDE, SMALL], shared_bytes=7)
    assert is_family(tmp_path)
    assert read_family(tmp_path) == Family(tmp_path, (WIDE, SMALL))
    assert read_family(tmp_path).directory(SMALL) == tmp_path / "plans" / "2x"
    assert json.loads((tmp_path / FAMILY).read_text())["shared_bytes"] == 7


def test_what_is_not_known_may_be_left_out(tmp_path: Path) -> None:
    _document(_directories(tmp_path, "1.2x"), _entry())
    assert read_family(tmp_path).plans == (FamilyPlan("1.2x", "plans/1.2x"),)


def test_a_directory_without_the_file_is_no_family(tmp_path: Path) -> None:
    assert not is_family(tmp_path)
    with pytest.raises(UserError, match="cannot read"):
        read_family(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"format": "lathe-family/1"}'])
def test_a_file_that_holds_no_family_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / FAMILY).write_text(text)
    with pytest.raises(UserError, match=r"family\.json"):
        read_family(tmp_path)


@pytest.mark.parametrize(
    ("plans", "message"),
    [
        ([], "lists no plans"),
        ([7], "without a name"),
        ([{"path": "plans/1.2x"}], "without a name"),
        ([{"name": "1.2x"}], "'1.2x' of .* has no path"),
        ([_entry(), _entry()], "two plans with the name '1.2x'"),
        ([_entry(), _entry("2x", path="plans/1.2x")], "plans/1.2x twice"),
        ([_entry("a:b")], "the name 'a:b'"),
        ([_entry("")], "the name ''"),
        ([_entry("3x")], "'3x' of .* is missing"),
        ([_entry(path="../1.2x")], "outside of the family's directory"),
        ([_entry(path="/etc")], "outside of the family's directory"),
        ([_entry(path=".")], "outside of the family's directory"),
        ([_entry(measured_ms="fast")], "the measured_ms 'fast'"),
        ([_entry(predicted_ms=-1)], "the predicted_ms '-1'"),
        ([_entry(loss_increase=float("nan"))], "the loss_increase 'nan'"),
        ([_entry(domain=3)], "the domain '3'"),
    ],
)
def test_a_plan_that_cannot_be_used_is_named(tmp_path: Path, plans: list[Any], message: str) -> None:
    _document(_directories(tmp_path, "1.2x", "2x"), *plans)
    with pytest.raises(UserError, match=message):
        read_family(tmp_path)


def test_a_link_out_of_the_directory_is_refused(tmp_path: Path) -> None:
    elsewhere = _directories(tmp_path / "other", "1.2x")
    (tmp_path / "family").mkdir()
    family = _document(tmp_path / "family", _entry())
    (family / "plans").symlink_to(elsewhere / "plans")
    with pytest.raises(UserError, match="outside"):
        read_family(family)


def test_another_format_is_named(tmp_path: Path) -> None:
    _document(_directories(tmp_path, "1.2x"), _entry(), written="lathe-family/9")
    with pytest.raises(UserError, match="'lathe-family/9'"):
        read_family(tmp_path)


def test_a_family_without_its_directories_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing"):
        write_family(tmp_path, [WIDE])
    assert not is_family(tmp_path)
