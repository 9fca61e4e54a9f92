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


@pytest.mark.parametrize("bits", ["16", "auto"])
def test_a_forecast_is_of_the_run_that_follows(tiny: Tiny, tmp_path: Path, bits: str) -> None:
    options = ("--target-speedup", "2.2x", "--bits", bits)
    ahead = planned(tiny, *options, "--context", "64")["forecast"]
    done = tiny.compress(tmp_path / "out", *options, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert ahead["rounds"] is (bits == "auto")
    assert ahead["predicted_ms"] == pytest.approx(report["latency"]["measured_ms"], rel=0.15)
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


def test_mixtures_keep_speedups_and_lose_more_the_faster_they_are(tiny: Tiny) -> None:
    advice = planned(tiny, "--context", "64")
    rows, dense = advice["mixtures"], advice["card"]["latency"]["dense_ms"]
    assert [row["speedup"] for row in rows] == [1.5, 2.0, 3.0, 4.0, 6.0]
    reached = [row for row in rows if row["plan"]]
    assert reached
    assert rows[-1]["plan"] is None, "below what a step takes without blocks"
    for row in reached:
        assert row["predicted_ms"] <= dense / row["speedup"] * 1.0001
        assert all(sum(row["blocks"][kind].values()) == len(row["plan"]["layers"]) for kind in row["blocks"])
        assert row["weight_bytes"]["subnet"] < row["weight_bytes"]["dense"]
    losses = [row["kl"]["most"] for row in reached]
    assert losses == sorted(losses)
    assert reached[0]["decoder_parameters_kept"] == 1, "rounding alone is enough, and loses less"


def test_people_read_what_mixtures_cost(tiny: Tiny) -> None:
    given = ("--calibration", str(tiny.text), "--calibration-tokens", "2048", "--context", "64")
    shown = " ".join(lathe("plan", str(tiny.model), *given).stdout.split())
    assert "widths and bits together, a forecast" in shown
    assert "│ 6x │ - │" in shown


@pytest.mark.parametrize("options", [("--bits", "16"), ("--no-latency",), ("--keep", "60%")])
def test_where_no_bits_are_searched_or_nothing_is_timed_there_are_no_mixtures(
    tiny: Tiny, options: tuple[str, ...]
) -> None:
    advice = planned(tiny, *options)
    assert advice["mixtures"] == []
    assert advice["forecast"]["rounds"] is False


def test_a_target_of_memory_is_forecast_with_rounded_weights(tiny: Tiny) -> None:
    ahead = planned(tiny, "--target-memory", "300kB", "--context", "64")["forecast"]
    assert ahead["rounds"] is True
    assert ahead["weight_bytes"]["subnet"] <= 300e3 < ahead["weight_bytes"]["dense"]


def test_an_impossible_target_is_refused_with_the_floor(tiny: Tiny) -> None:
    fastest = steady_clock.TERMS[0] / 2
    done = lathe("plan", str(tiny.model), "--target-latency", f"{fastest}ms")
    assert done.exit_code == 1
    assert "is out of reach" in done.stderr


def test_a_model_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    done = lathe("plan", str(tmp_path / "none"))
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
