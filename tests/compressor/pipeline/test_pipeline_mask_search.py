"""Searches over masks from the command to the artefact: a budget kept, the same bytes after a kill."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from lathe.artefact.plan import Plan
from support.compress_command import Tiny, content

SAME = ("model.safetensors", "plan.json")
BUDGET = ("--method", "policy-gradient", "--keep", "60%", "--export", "checkpoint", "--evaluations", "24")


def test_a_budget_is_kept_drawn_and_the_same_after_a_kill(tiny: Tiny, tmp_path: Path) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    done = tiny.compress(whole, *BUDGET, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert 0.5 < report["decoder_parameters_kept"] <= 0.6
    assert Plan.load(whole / "plan.json").to_json()["layers"] == report["layers"]
    assert "Held-out KL by step" in (whole / "report.html").read_text()

    killed = tiny.killed(torn, "evaluate:30", *BUDGET)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = tiny.compress(torn, *BUDGET)
    assert done.exit_code == 0, done.output
    assert content(torn, SAME) == content(whole, SAME)


@pytest.mark.parametrize(("method", "evaluations"), [("gisp", "8"), ("grasprune", "4")])
def test_searches_with_gradients_keep_a_budget_and_say_how_they_went(
    method: str, evaluations: str, tiny: Tiny, tmp_path: Path
) -> None:
    budget = ("--method", method, "--keep", "60%", "--export", "checkpoint", "--evaluations", evaluations)
    out = tmp_path / "out"
    done = tiny.compress(out, *budget, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert 0.5 < report["decoder_parameters_kept"] <= 0.6
    assert report["method"] == method
    rows = [json.loads(line) for line in (out / "trace.jsonl").read_text().splitlines()]
    assert {row["key"].split()[0] for row in rows} <= {"mask", "heldout", "plan"}
    assert ("Held-out KL by step" in (out / "report.html").read_text()) == (method == "grasprune")
