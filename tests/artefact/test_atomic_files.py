"""Directories that are renamed into place whole, or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from lathe.artefact.atomic_files import publish_directory, staged_directory
from lathe.artefact.errors import UserError


def test_a_staged_directory_appears_when_its_block_succeeds(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "target"
    with staged_directory(target) as staged:
        (staged / "file").write_text("content")
        assert not target.exists()
    assert (target / "file").read_text() == "content"
    assert [*target.parent.iterdir()] == [target]


def test_a_staged_directory_is_removed_when_its_block_fails(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="broken"), staged_directory(tmp_path / "target") as staged:
        (staged / "file").write_text("content")
        raise ValueError("broken")
    assert not [*tmp_path.iterdir()]


def test_a_shared_directory_is_the_one_that_was_there_first(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with staged_directory(target, shared="whole") as mine:
        (mine / "whole").write_text("mine")
        with staged_directory(target, shared="whole") as theirs:
            (theirs / "whole").write_text("theirs")
    assert (target / "whole").read_text() == "theirs"
    assert [*tmp_path.iterdir()] == [target]


def test_a_shared_directory_that_is_not_whole_is_an_error(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "part").touch()
    with pytest.raises(UserError, match="cannot write"), staged_directory(target, shared="whole"):
        pass


def test_what_is_replaced_is_moved_back_when_the_rename_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished, target = tmp_path / "finished", tmp_path / "target"
    for directory, content in ((finished, "new"), (target, "old")):
        directory.mkdir()
        (directory / "file").write_text(content)
    rename = Path.rename

    def refusing(self: Path, to: Path) -> Path:
        if self == finished:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return rename(self, to)

    with monkeypatch.context() as broken:
        broken.setattr(Path, "rename", refusing)
        with pytest.raises(UserError, match="cannot write"):
            publish_directory(finished, target, tmp_path / "replaced")
    assert (target / "file").read_text() == "old"
    publish_directory(finished, target, tmp_path / "replaced")
    assert (target / "file").read_text() == "new"
    assert (tmp_path / "replaced" / "file").read_text() == "old"


def test_an_existing_target_is_not_replaced_unasked(tmp_path: Path) -> None:
    finished, target = tmp_path / "finished", tmp_path / "target"
    for directory in (finished, target):
        directory.mkdir()
        (directory / "file").write_text("content")
    with pytest.raises(UserError, match="cannot write"):
        publish_directory(finished, target)
    assert finished.exists()
