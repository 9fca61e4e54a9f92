"""Databases of trials: which are taken, and which are refused in a sentence."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from lathe.artefact.errors import UserError
from lathe.compressor.tuning import study as module
from lathe.compressor.tuning.study import FILE, open_study

IDENTITY = {"model": "abc", "target": {"keep": "0.6"}, "search space": {"damping": [0.1, 0.01]}}


def refused(directory: Path, **changes: object) -> str:
    with pytest.raises(UserError) as caught, open_study(directory, IDENTITY | changes):
        pytest.fail("it was taken")
    return str(caught.value)


def test_a_study_of_something_else_is_refused(tmp_path: Path) -> None:
    with open_study(tmp_path, IDENTITY):
        pass
    with open_study(tmp_path, IDENTITY):
        pass
    assert "is a study with another model" in refused(tmp_path, model="other")
    assert "is a study with another target" in refused(tmp_path, target={"keep": "0.7"})
    assert "is a study with another search space" in refused(tmp_path, **{"search space": {}})
    assert "is a study with another value of --seed" in refused(tmp_path, **{"value of --seed": 1})


def test_a_database_that_is_held_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WAIT", 0.05)
    with open_study(tmp_path, IDENTITY):
        assert "another `lathe tune` is working on" in refused(tmp_path)
    with closing(sqlite3.connect(tmp_path / FILE)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert "database is locked" in refused(tmp_path)
    with open_study(tmp_path, IDENTITY):
        pass


def test_foreign_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_text("notes")
    assert "is not a database of trials" in refused(tmp_path)
    assert path.read_text() == "notes"
    path.unlink()
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE songs (title TEXT)")
        other.commit()
    before = path.read_bytes()
    assert "is the database of something else" in refused(tmp_path)
    assert path.read_bytes() == before


def test_a_missing_extra_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _name: None)
    assert refused(tmp_path) == (
        "`lathe tune` needs optuna, which is not installed. pip install 'lathe[tune]'"
    )
