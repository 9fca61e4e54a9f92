"""`lathe plan`: feasibility and forecast of targets, and choices of equal weight bytes, evaluated here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from support import steady_clock
from support.compress_command import Tiny, lathe

pytestmark = pytest.mark.usefixtures("steady")


def planned(tiny: Tiny, *options: str) -> dict[str, Any]:
    arguments = ("--calibration", str(tiny.text), "--calibration-tokens", "2048", "--json")
    done = lathe("plan", str(tiny.model), *arguments, *options)
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


def test_choices_fit_their_budget_and_the_best_comes_first(tiny: Tiny) -> None:
    advice = planned(tiny, "--no-latency")
    assert advice["card"]["latency"]["dense_ms"] is None
    assert [row["bytes"] for row in advice["budgets"]] == sorted(
        (row["bytes"] for row in advice["budgets"]), reverse=True
    )
    for row in advice["budgets"]:
        assert all(choice["decoder_bytes"] <= row["bytes"] for choice in row["choices"])
        divergences = [choice["kl"] for choice in row["choices"]]
        assert divergences == sorted(divergences)
        assert all(choice["kl"] >= -1e-6 and 0 < choice["keep"] <= 1 for choice in row["choices"])
    by_name = {choice["name"]: choice["kl"] for row in advice["budgets"] for choice in row["choices"]}
    assert by_name["quantize: int8"] < by_name["quantize: int4"]


def test_without_a_target_dense_and_the_floor_are_timed(tiny: Tiny) -> None:
    preflight = planned(tiny)["card"]
    assert preflight["status"] == "feasible"
    assert preflight["latency"]["target_ms"] is None
    assert 0 < preflight["latency"]["floor_ms"] < preflight["latency"]["dense_ms"]


def test_a_forecast_is_of_the_run_that_follows(tiny: Tiny, tmp_path: Path) -> None:
    ahead = planned(tiny, "--target-speedup", "1.3x", "--context", "64")["forecast"]
    done = tiny.compress(tmp_path / "out", "--target-speedup", "1.3x", "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert ahead["decoder_parameters_kept"] == pytest.approx(report["decoder_parameters_kept"], abs=0.2)
    assert 0 < ahead["kl"]["least"] < ahead["kl"]["most"]
    assert 1 < ahead["perplexity_factor"]["least"] < ahead["perplexity_factor"]["most"]
    assert 0.3 < ahead["needs"]["memory_bytes"] / report["peak_memory_bytes"] < 3
    seconds = ahead["needs"]["seconds"]
    assert 0 < seconds["least"] < seconds["about"] < seconds["most"]


def test_people_read_a_table(tiny: Tiny) -> None:
    arguments = ("--calibration", str(tiny.text), "--calibration-tokens", "2048", "--keep", "60%")
    shown = lathe("plan", str(tiny.model), *arguments)
    assert shown.exit_code == 0, shown.output
    for expected in ("tpot (ms)", "parameters", "forecast: ", "prune, quantize, or both"):
        assert expected in shown.stdout
    assert re.search(r"the run: about \d+ min here \(\d+ to \d+\), \d\.\d GiB of memory\n", shown.stdout)


@pytest.mark.parametrize("target", [("--target-speedup", "1.3x"), ("--target-memory", "300kB"), ()])
def test_a_forecast_says_whether_compress_rounds_as_well(tiny: Tiny, target: tuple[str, ...]) -> None:
    given = ("--calibration", str(tiny.text), "--calibration-tokens", "2048", "--context", "64", *target)
    shown = " ".join(lathe("plan", str(tiny.model), *given).stdout.split())
    note = "both are of widths alone (--bits 16); without it, `compress` rounds weights, too"
    assert (note in shown) == bool(target)
    assert planned(tiny, "--context", "64", *target)["forecast"]["rounds"] is bool(target)


def test_an_impossible_target_is_refused_with_the_floor(tiny: Tiny) -> None:
    fastest = steady_clock.TERMS[0] / 2
    done = lathe("plan", str(tiny.model), "--target-latency", f"{fastest}ms")
    assert done.exit_code == 1
    assert "is out of reach" in done.stderr
    assert "Widths alone were looked at: `compress` rounds weights, too" in done.stderr


def test_a_model_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    done = lathe("plan", str(tmp_path / "none"))
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
