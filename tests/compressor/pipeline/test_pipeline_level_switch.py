"""`--method tyr` from the command to the artefact, on a mixture of experts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from support.compress_command import Tiny
from support.tiny_models import tiny

BUDGET = ("--keep", "60%", "--export", "checkpoint", "--evaluations", "16")


@pytest.mark.usefixtures("steady")
def test_experts_are_searched_within_the_budget_and_the_report_draws_the_last_stage(tmp_path: Path) -> None:
    model: Tiny = tiny(tmp_path, "mixtral", "untied", "one file")
    done = model.compress(tmp_path / "out", "--method", "tyr", *BUDGET)
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["method"] == "tyr"
    assert 0.5 < report["decoder_parameters_kept"] <= 0.6
    assert any(layer.get("experts") for layer in report["layers"])
    rows = [json.loads(line) for line in (tmp_path / "out" / "trace.jsonl").read_text().splitlines()]
    values = [row["value"] for row in rows if row["stage"] == 2]
    page = (tmp_path / "out" / "report.html").read_text()
    (shown,) = re.findall(r"From (\S+) to (\S+) over (\d+) plans", page)
    assert shown == (f"{values[0]:.4g}", f"{min(values):.4g}", str(len(values)))
