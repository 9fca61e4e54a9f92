"""Variants of ours and of other distributions: found by name, refused where they do not fit."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from lathe.artefact.errors import UserError
from lathe.artefact.registry import LazyRegistry, Registry, _warn_once
from support.plugins import install

GROUP = "lathe.tests"


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A package with two modules that register themselves, in a registry that `registries` holds."""
    name = f"ours_{abs(hash(request.node.nodeid))}"
    folder = tmp_path / "ours" / name
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("registries = []\n")
    for module in ("first", "second"):
        code = f"from {name} import registries\nregistries[-1].add('{module}', '{module} of ours')\n"
        (folder / f"{module}.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path / "ours"))
    _warn_once.cache_clear()
    return name


def made(kind: type[Registry[str]], package: str) -> Registry[str]:
    registry = kind("toy", package, GROUP, lambda _name, value: isinstance(value, str))
    __import__(package).registries.append(registry)
    return registry


def installed(place: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: str, **points: str) -> None:
    monkeypatch.syspath_prepend(str(install(place / name, name, code, {GROUP: points})))


@pytest.mark.parametrize("kind", [Registry, LazyRegistry])
def test_ours_are_found_by_their_files(kind: type[Registry[str]], package: str) -> None:
    toys = made(kind, package)
    assert toys.known() == ["first", "second"]
    assert toys.get("second") == "second of ours"
    with pytest.raises(UserError, match=r"there is no toy `third`\. Known: first, second"):
        toys.get("third")


def test_a_lazy_registry_imports_what_is_asked_for_only(package: str) -> None:
    toys = made(LazyRegistry, package)
    toys.known()
    assert toys.get("second") == "second of ours"
    assert f"{package}.second" in sys.modules
    assert f"{package}.first" not in sys.modules


@pytest.mark.parametrize("kind", [Registry, LazyRegistry])
def test_an_installed_distribution_adds_one(
    kind: type[Registry[str]], package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, monkeypatch, "toy-shop", "BEAR = 'a bear'\n", bear="toy_shop:BEAR")
    toys = made(kind, package)
    assert toys.known() == ["bear", "first", "second"]
    assert toys.get("bear") == "a bear"


BROKEN = {
    "missing": ("", "absent:X", "absent:X cannot be loaded (ModuleNotFoundError: No module named 'absent')"),
    "raises": ("1 / 0\n", "toy_shop:X", "toy_shop:X cannot be loaded (ZeroDivisionError: division by zero)"),
    "nameless": ("", "toy_shop:X", "toy_shop:X cannot be loaded (AttributeError: "),
    "other": ("X = 7\n", "toy_shop:X", "toy_shop:X is no toy of that name"),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("kind", [Registry, LazyRegistry])
def test_a_broken_one_is_named_and_the_others_work(
    kind: type[Registry[str]], case: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, value, why = BROKEN[case]
    sys.modules.pop("toy_shop", None)
    installed(tmp_path, monkeypatch, "toy-shop", code, broken=value)
    installed(tmp_path, monkeypatch, "toy-works", "BEAR = 'a bear'\n", bear="toy_works:BEAR")
    toys = made(kind, package)
    assert {"bear", "first", "second"} <= set(toys.known())
    assert (toys.get("first"), toys.get("bear")) == ("first of ours", "a bear")
    with pytest.raises(UserError) as refused:
        toys.get("broken")
    told = f"the toy `broken` of the distribution toy-shop 1.2 is left out: {why}"
    assert str(refused.value).startswith(told)


def test_a_broken_one_is_told_once_where_all_are_loaded(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    installed(tmp_path, monkeypatch, "toy-shop", "", broken="absent:X")
    with caplog.at_level(logging.WARNING):
        assert made(Registry, package).known() == ["first", "second"]
        made(Registry, package).known()
    assert [record.getMessage() for record in caplog.records] == [
        "the toy `broken` of the distribution toy-shop 1.2 is left out: "
        "absent:X cannot be loaded (ModuleNotFoundError: No module named 'absent')"
    ]


@pytest.mark.parametrize("kind", [Registry, LazyRegistry])
def test_a_name_of_ours_or_of_another_is_not_taken_over(
    kind: type[Registry[str]],
    package: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in ("toy-a", "toy-b"):
        points = {"bear": f"{name.replace('-', '_')}:BEAR"}
        clash = {"first": "toy_a:BEAR"} if name == "toy-a" else {}
        installed(tmp_path, monkeypatch, name, f"BEAR = 'of {name}'\n", **points, **clash)
    toys = made(kind, package)
    with caplog.at_level(logging.WARNING):
        assert toys.known() == ["bear", "first", "second"]
    assert (toys.get("first"), toys.get("bear")) == ("first of ours", "of toy-a")
    assert {record.getMessage() for record in caplog.records} == {
        "the toy `first` of the distribution toy-a 1.2 is left out: that name is taken",
        "the toy `bear` of the distribution toy-b 1.2 is left out: that name is taken",
    }


def test_a_name_is_given_once(package: str) -> None:
    toys = made(Registry, package)
    bear = toys.add("bear", "a bear")
    assert toys.add("bear", bear) is bear
    with pytest.raises(UserError, match="there is a toy `bear` already"):
        toys.add("bear", "another")
