"""Hashes of an artefact's files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from lathe.artefact import manifest
from lathe.artefact.linked_files import link
from lathe.artefact.manifest import sha256


def test_a_file_with_several_names_is_read_once_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"weights")
    link(first, second)
    expected, read = hashlib.sha256(b"weights").hexdigest(), []
    real = hashlib.file_digest
    monkeypatch.setattr(manifest.hashlib, "file_digest", lambda *args: read.append(1) or real(*args))
    assert [sha256(first), sha256(second), sha256(first)] == [expected] * 3
    assert len(read) == 1
    with second.open("r+b") as file:
        file.write(b"damaged")
    assert sha256(first) == sha256(second) == hashlib.sha256(b"damaged").hexdigest()
    alone = tmp_path / "alone"
    alone.write_bytes(b"weights")
    assert sha256(alone) == sha256(alone) == expected
    assert len(read) == 4, "a file with one name is read whenever it is asked for"
