"""`lathe plan`: choices of equal weight bytes, judged on the model."""

from __future__ import annotations

import json
from pathlib import Path

from compress_command import Tiny, lathe


def test_choices_fit_their_budget_and_the_best_comes_first(tiny: Tiny) -> None:
    arguments = ("plan", str(tiny.model), "--calibration", str(tiny.text), "--calibration-tokens", "2048")
    done = lathe(*arguments, "--json")
    assert done.exit_code == 0, done.output
    advice = json.loads(done.stdout)
    assert [row["bytes"] for row in advice["budgets"]] == sorted(
        (row["bytes"] for row in advice["budgets"]), reverse=True
    )
    for row in advice["budgets"]:
        assert all(choice["decoder_bytes"] <= row["bytes"] for choice in row["choices"])
        divergences = [choice["kl"] for choice in row["choices"]]
        assert divergences == sorted(divergences)
        assert all(choice["kl"] >= -1e-6 and 0 < choice["keep"] <= 1 for choice in row["choices"])
    by_name = {choice["name"]: choice["kl"] for row in advice["budgets"] for choice in row["choices"]}
    assert by_name["quantize: int8 per channel"] < by_name["quantize: int4, groups of 32"]
    shown = lathe(*arguments)
    assert "cut, quantize, or both" in shown.stdout


def test_a_model_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    done = lathe("plan", str(tmp_path / "none"))
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
