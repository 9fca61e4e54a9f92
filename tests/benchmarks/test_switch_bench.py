"""What the benchmark makes of measurements; the servers have tests of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.switch.ramp import DENSE, SMALLEST, SWITCHING, family_of_one, mean_loss, switching
from benchmarks.switch.setting import Speed, limits_of, rates_of
from benchmarks.switch.verdict import table, verdict
from lathe.artefact.errors import UserError
from lathe.artefact.family import Family, FamilyPlan

FAMILY = Family(Path("out"), (FamilyPlan("1.2x", "a", 5, 5, 0.02), FamilyPlan("2x", "b", 3, 3, 0.2)))


def row(within: float, loss: float | None, switches: int = 0, **errors: int) -> dict[str, Any]:
    return {
        "requests": 10,
        "within": within,
        "within_each": {"tpot": within, "ttft": 1.0},
        "output_tokens_per_second": 20.0,
        "mean_loss": loss,
        "switches": {"2x": switches},
        "duration_s": 60.0,
        "errors": errors,
    }


def test_loss_is_the_mean_of_what_was_answered() -> None:
    answered = {"out:1.2x": {"requests": 3}, "out:2x": {"requests": 1}}
    assert mean_loss(answered, FAMILY) == pytest.approx((3 * 0.02 + 0.2) / 4)
    assert mean_loss({}, FAMILY) is None
    assert mean_loss({"out:1.2x": {"requests": 3}}, Family(Path("out"), (FamilyPlan("1.2x", "a"),))) is None


def test_dense_is_served_as_a_family_of_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not an artefact"):
        family_of_one(tmp_path, tmp_path / "none")
    (tmp_path / "dense" / "onnx").mkdir(parents=True)
    for name in ("manifest.json", "onnx/model.onnx"):
        (tmp_path / "dense" / name).write_text("{}")
    made = family_of_one(tmp_path / "dense", tmp_path / "family")
    (plan,) = made.plans
    assert (plan.name, plan.loss_increase) == ("dense", 0.0)
    linked = made.directory(plan) / "onnx" / "model.onnx"
    assert linked.samefile(tmp_path / "dense" / "onnx" / "model.onnx")


def test_the_verdict_names_what_is_not_shown() -> None:
    good = {DENSE: row(0.4, 0.0), SMALLEST: row(1.0, 0.2), SWITCHING: row(0.96, 0.1, 4, http_429=1)}
    assert set(verdict(good).values()) == {True}
    bad = {DENSE: row(0.6, 0.0), SMALLEST: row(1.0, 0.2), SWITCHING: row(0.9, 0.2, 11, dropped=1)}
    assert set(verdict(bad).values()) == {False}
    assert len(table(good).splitlines()) == 2 + 3


def test_limits_and_rates_are_of_this_machine() -> None:
    dense, fast = Speed(0.02, 0.1, 2.0), Speed(0.01, 0.05, 4.0)
    assert limits_of(dense).limits_s == pytest.approx({"tpot": 0.06, "ttft": 0.6})
    first, last = rates_of(dense, fast)
    assert first < dense.requests_per_second < last < fast.requests_per_second
    with pytest.raises(UserError, match="no ramp is beyond"):
        rates_of(dense, Speed(0.01, 0.05, 2.1))


def test_switches_are_read_from_a_scrape() -> None:
    text = (
        "# TYPE lathe_subnet_switches counter\n"
        'lathe_subnet_switches_total{model="out",subnet="2x"} 3.0\n'
        "# TYPE lathe_subnet_active_seconds counter\n"
        'lathe_subnet_active_seconds_total{model="out",subnet="2x"} 7.5\n'
    )
    assert switching(text) == {"switches": {"2x": 3.0}, "active_s": {"2x": 7.5}}
    assert switching("") == {}
