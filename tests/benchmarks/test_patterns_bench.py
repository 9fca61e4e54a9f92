"""The comparison of patterns: its rows, a run that goes on, and the table of speeds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.patterns import __main__ as patterns
from benchmarks.patterns import speed
from benchmarks.patterns.table import speed_table, table
from support.compress_command import Tiny, make_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return make_tiny(tmp_path_factory.mktemp("patterns"))


def run(tiny: Tiny, out: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    texts = ["--text", str(tiny.text), "--eval", str(tiny.text), "--tokens", "1024", "--windows", "1"]
    arguments = ["patterns", "--model", str(tiny.model), *texts, "--out", str(out), *options]
    monkeypatch.setattr(sys, "argv", arguments)
    return patterns.main()


def test_rows_say_zeros_and_losses_and_are_kept(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench" / "patterns.json"
    assert run(tiny, out, monkeypatch, "--variants", "dense/wanda/joint, refined, int8") == 0
    rows = {row["variant"]: row for row in json.loads(out.read_text())["rows"]}
    assert (rows["dense"]["zeros"], rows["dense"]["kl"]) == (0, pytest.approx(0, abs=1e-6))
    assert rows["wanda"]["zeros"] == 0.5 <= rows["joint, refined, int8"]["zeros"] < 0.52
    assert 0 < rows["joint, refined, int8"]["kl"] < rows["wanda"]["kl"]
    assert "| wanda | 50% |" in capsys.readouterr().out
    monkeypatch.setattr(patterns, "compare", None)
    assert run(tiny, out, monkeypatch, "--variants", "dense/wanda") == 0
    assert run(tiny, out, monkeypatch, "--variants", "dense/wanda", "--pattern", "1:4") == 1
    assert "has rows of other settings" in capsys.readouterr().err
    assert run(tiny, out, monkeypatch, "--variants", "magic") == 1
    assert "there is no variant magic" in capsys.readouterr().err


def test_the_table_begins_with_the_least_increase() -> None:
    row = {"text": "t", "zeros": 0.5, "perplexity": 20.0, "kl": 0.1, "seconds": 3.0}
    found = table([{**row, "variant": "b", "increase": 0.5}, {**row, "variant": "a", "increase": 0.2}])
    assert found.index("| a | 50% | 20.00 | 0.200 |") < found.index("| b |")


def test_speeds_are_of_files_with_and_without_zeros(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "speed.json"
    arguments = ["--model", str(tiny.model), "--backends", "onnx-int8", "--threads", "1", "--context", "16"]
    monkeypatch.setattr(sys, "argv", ["speed", *arguments, "--seconds", "0.1", "--out", str(out)])
    assert speed.main() == 0
    (row,) = json.loads(out.read_text())["rows"]
    assert (row["engine"], row["weights"]) == ("onnx", "int8")
    assert row["dense_bytes"] == row["pattern_bytes"] > 0
    assert speed_table([row]) in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["speed", "--model", str(tiny.model), "--pattern", "2:5"])
    assert speed.main() == 1
    assert "groups of 5 do not divide" in capsys.readouterr().err
