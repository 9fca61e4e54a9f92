"""`make bench-latency` on a clock that never drifts: targets are kept and sums over the table are exact."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.latency import __main__ as bench
from benchmarks.latency import predictions, shapes, targets
from benchmarks.latency.targets import Subject
from lathe.artefact.plan import LayerShape, Plan
from lathe.compressor.compute.progress import Progress
from lathe.compressor.latency.workload import Workload
from lathe.compressor.model.checkpoint import open_config
from lathe.compressor.search.space import make_space
from support import steady_clock
from support.compress_command import make_tiny


@pytest.fixture(autouse=True)
def steady(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATHE_CACHE", str(tmp_path / "cache"))
    steady_clock.hold(monkeypatch)
    monkeypatch.setitem(shapes._DIMENSIONS, "tiny", (64, 4, 8, 4, 16, 96, 120, False))


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    model = shapes.write_shape("tiny", tmp_path)
    return Subject("tiny", model, "onnx", Workload(context=64), 1, tmp_path)


def test_targets_are_kept_by_uneven_plans_and_rows_say_what_was_measured(subject: Subject) -> None:
    rows = list(targets.rows(subject, [1.2, 2.0], Progress(quiet=True)))
    assert [row["speedup"] for row in rows] == [1.2, 2.0]
    for row in rows:
        plan = Plan(tuple(LayerShape(**layer) for layer in row["plan"]))
        assert plan.uneven
        assert row["measured_ms"] == pytest.approx(steady_clock.milliseconds(plan))
        assert row["target_ms"] == pytest.approx(row["dense_ms"] / row["speedup"])
        assert 0.9 < row["measured_over_target"] <= 1.02
        assert row["met"]
        assert row["rounds"] >= 1


def test_random_plans_are_legal_and_predicted_exactly_on_a_linear_clock(subject: Subject) -> None:
    space = make_space(open_config(str(subject.model)).shape)
    plans = predictions.random_plans(space, 30)
    assert len(set(plans)) > 25
    assert all(any(layer.kv_heads for layer in plan) for plan in plans)
    assert any(layer.ffn == 0 for plan in plans for layer in plan)
    rows = list(predictions.rows(subject, 6, Progress(quiet=True)))
    assert len(rows) == 6
    assert all(abs(row["error"]) < 1e-6 for row in rows)


def test_the_command_writes_a_row_each_and_goes_on_from_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny, out = make_tiny(tmp_path), tmp_path / "latency.json"
    text, files = str(tiny.text), ("--out", str(out), "--model", str(tiny.model))
    command = ["bench", "--shapes", "tiny", "--speedups", "1.5", "--plans", "4", "--context", "64", *files]
    command += ["--text", text, "--eval", text, "--tokens", "2048", "--windows", "1"]
    command += ["--aware-speedup", "1.3", "--aware-batch-size", "2", "--aware-context", "64"]
    monkeypatch.setattr(sys, "argv", command)
    bench.main()
    sections = json.loads(out.read_text())["sections"]
    assert {name: len(rows) for name, rows in sections.items()} == {
        "targets": 1,
        "predictions": 4,
        "aware": 2,
    }
    by_latency, by_parameters = sections["aware"]
    assert by_parameters["measured_ms"] <= by_latency["measured_ms"] * 1.001
    assert by_latency["speedup_measured"] == pytest.approx(1.3, rel=0.1)
    shown = capsys.readouterr().out
    assert "one round was enough for" in shown
    assert "nine of ten within" in shown
    monkeypatch.setattr(sys, "argv", [*command, "--speedups", "1.5,2"])
    bench.main()
    assert len(json.loads(out.read_text())["sections"]["targets"]) == 2
