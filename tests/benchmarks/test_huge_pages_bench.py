"""The command on a tiny graph; times are not looked at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.huge_pages import main
from lathe.compressor.export import exporters
from support.tiny_llama import PLANS, checkpoint, pruned


def test_every_graph_has_both_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exporters.get("onnx").write(tmp_path, pruned(checkpoint(tmp_path / "dense"), PLANS["mixed"]))
    graph, out = str(tmp_path / "onnx" / "model.onnx"), tmp_path / "out.json"
    main([graph, graph, "--context", "12", "--steps", "3", "--out", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert [row["graph"] for row in rows] == [graph, graph]
    assert all(min(row["small_ms"], row["huge_ms"], row["ratio"]) > 0 for row in rows)
    assert capsys.readouterr().out.count("small pages") == 2
