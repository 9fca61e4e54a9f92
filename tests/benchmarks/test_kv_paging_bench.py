"""The whole command on a tiny model, this tree beside itself; times are not looked at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.kv_paging import __main__ as bench
from benchmarks.source_tree import ROOT, SourceTree
from support.compress_command import make_tiny


def test_the_document_has_memory_speed_and_times(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "checkout", lambda *_: SourceTree(ROOT, "before"))
    monkeypatch.setattr(bench, "snapshot", lambda *_: SourceTree(ROOT, "now"))
    tiny, out = make_tiny(tmp_path), tmp_path / "out.json"
    sizes = "--length 256 --users 3 --requests 9 --prompt-tokens 5,90 --tokens 60 --turn 0.01 --threads 1"
    prefix = "--system-tokens 150 --question-tokens 5,60 --rounds 2"
    where = ["--work", str(tmp_path / "work"), "--out", str(out)]
    assert bench.main(["--model", str(tiny.model), *sizes.split(), *prefix.split(), *where]) == 0
    document = json.loads(out.read_text())
    assert document["commits"] == {"whole": "before", "paged": "now"}
    for name in ("whole", "paged"):
        row = document["users"][name]
        assert row["tokens"] == 9 * 60
        assert 0 < row["peak_resident_bytes"] <= row["full_bytes"]
    questions = document["prefix"]["questions"]
    assert {count: len(row["with_s"]) for count, row in questions.items()} == {"5": 2, "60": 2}
    assert {row["found_tokens"] for row in questions.values()} == {128}
    assert "| paged / whole |" in capsys.readouterr().out


def test_a_build_that_fails_is_an_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tiny = make_tiny(tmp_path)
    where = ["--work", str(tmp_path / "work"), "--base", "no-such-commit"]
    assert bench.main(["--model", str(tiny.model), *where]) == 1
    assert "no commit no-such-commit" in capfd.readouterr().err
