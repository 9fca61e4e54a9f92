"""`--method policy-gradient` from the command to the artefact: a target kept, the same bytes after a kill."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from lathe.artefact.plan import Plan
from support.compress_command import Tiny, content

pytestmark = pytest.mark.usefixtures("steady", "own_cache")

SAME = ("model.safetensors", "plan.json", "onnx/model.onnx")
TARGET = ("--method", "policy-gradient", "--target-speedup", "1.4x")


def test_a_target_is_met_drawn_and_the_same_after_a_kill(tiny: Tiny, tmp_path: Path) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    done = tiny.compress(whole, *TARGET, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["latency"]["measured_ms"] <= 1.02 * report["latency"]["target_ms"]
    assert Plan.load(whole / "plan.json").to_json()["layers"] == report["layers"]
    assert "Held-out KL by step" in (whole / "report.html").read_text()
    spent = [
        row["expected"]["latency"]
        for row in map(json.loads, (whole / "trace.jsonl").read_text().splitlines())
        if "expected" in row
    ]
    limit = report["latency"]["target_ms"] * 0.99
    assert len(spent) >= 40
    assert any(cost == pytest.approx(limit, rel=0.01) for cost in spent)

    killed = tiny.killed(torn, "evaluate:30", *TARGET)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = tiny.compress(torn, *TARGET)
    assert done.exit_code == 0, done.output
    assert content(torn, SAME) == content(whole, SAME)
