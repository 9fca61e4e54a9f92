"""The whole command on a tiny model; times are not looked at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.kv_cache import __main__ as bench
from support.compress_command import make_tiny


def test_the_document_has_loss_bytes_and_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, out = make_tiny(tmp_path), tmp_path / "out.json"
    texts = ["--text", str(tiny.text), "--eval", str(tiny.text), "--window", "100", "--windows", "2"]
    where = ["--work", str(tmp_path / "work"), "--out", str(out), "--contexts", "20,60"]
    command = ["--model", str(tiny.model), *texts, *where]
    assert bench.main([*command, "--times"]) == 0
    document = json.loads(out.read_text())
    plain, rounded, by_values = document["quality"]
    assert [row["cache"] for row in document["quality"]] == [*document["bytes"]]
    assert (plain["increase"], plain["kl"]) == (0, pytest.approx(0, abs=1e-6))
    assert 0 < rounded["kl"] < 0.01
    assert by_values["kl"] > 0
    size = {name: facts["kv_per_token"] for name, facts in document["bytes"].items()}
    assert size[bench.FLOAT] == 4 * size[bench.INT8]
    assert [row["context"] for row in document["times"]] == [20, 60]
    monkeypatch.setattr(bench, "_time", lambda *_: pytest.fail("nothing is to be timed"))
    assert bench.main(command) == 0
    assert json.loads(out.read_text())["times"] == document["times"]
    assert "| 60 |" in bench.table(document)


def test_a_text_that_is_too_short_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny, short = make_tiny(tmp_path), tmp_path / "short.txt"
    short.write_text("few words")
    where = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out.json")]
    assert bench.main(["--model", str(tiny.model), "--text", str(short), *where]) == 1
    assert "shorter than one window of 512 tokens" in capsys.readouterr().err
