"""The choosers: what they need, what they choose, what they tell."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from lathe.artefact.errors import UserError
from lathe.artefact.family import Family, FamilyPlan
from lathe.serving.options import ServeOptions
from lathe.serving.switching.chooser import choosers
from lathe.serving.switching.choosers.slo import SloChooser
from lathe.serving.switching.controller import LEAST_GAPS

PLANS = (
    FamilyPlan("1.2x", "a", 10, 11),
    FamilyPlan("2x", "b", 5, 6),
    FamilyPlan("code", "c", 5, 6, domain="code"),
)


def family(*plans: FamilyPlan) -> Family:
    return Family(Path("fam"), plans or PLANS)


def options(**given: Any) -> ServeOptions:
    return ServeOptions(out=Path("fam"), **given)


class Silent:
    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def backend(running: int = 0, since: float | None = None) -> Any:
    return SimpleNamespace(num_running=running, num_waiting=0, max_batch=8, waiting_since=since)


def test_the_names_are_those_of_the_files() -> None:
    assert {"slo", "widest"} <= set(choosers.known())
    with pytest.raises(UserError, match="there is no way to switch `fast`"):
        choosers.get("fast")


@pytest.mark.parametrize(
    ("name", "given", "plans", "message"),
    [
        ("slo", {}, PLANS, "needs limits"),
        ("slo", {"slo": "tpot=30"}, PLANS, "not a list of limits"),
        ("slo", {"slo": "e2e=2s"}, PLANS, "not a list of limits"),
        ("slo", {"slo": "tpot=0ms"}, PLANS, "no number above 0"),
        ("slo", {"slo": "tpot=30ms"}, PLANS[1:], "one subnet for any text, 2x, and nothing to switch to"),
        ("slo", {"slo": "tpot=30ms"}, (FamilyPlan("a", "a", 3), FamilyPlan("b", "b")), "milliseconds of all"),
        ("widest", {"slo": "tpot=30ms"}, PLANS, "does not take --slo"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(
    name: str, given: dict[str, Any], plans: tuple[FamilyPlan, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        choosers.get(name)(family(*plans), options(**given))


def test_the_widest_is_the_first_for_any_text() -> None:
    chooser = choosers.get("widest")(family(PLANS[2], *PLANS[:2]), options())
    assert chooser.choose(()).subnet == "1.2x"
    assert choosers.get("widest")(family(PLANS[2]), options()).choose(()).subnet == "code"


def test_a_wider_subnet_is_taken_to_be_no_faster_than_a_narrower_one() -> None:
    plans = (FamilyPlan("a", "a", None, 5), FamilyPlan("b", "b", None, 8), FamilyPlan("c", "c", None, 4))
    chooser = choosers.get("slo")(family(*plans), options(slo="tpot=30ms"))
    assert isinstance(chooser, SloChooser)
    assert chooser.milliseconds == {"a": 8, "b": 8, "c": 4}


def test_slo_moves_new_requests_by_what_engines_report() -> None:
    now = [100.0]
    chooser = SloChooser({"1.2x": 11, "2x": 6}, {"tpot": 0.03, "ttft": 0.2}, lambda: now[0])
    engines = {"1.2x": backend(), "2x": backend()}
    watcher = chooser.observer("1.2x", Silent())
    chooser.watch({**engines, "code": backend()})
    try:
        assert chooser.choose(()).reason == "slo: within limits"
        for _ in range(LEAST_GAPS):
            watcher.next_token(0.028)
        choice = chooser.choose(())
        assert (choice.subnet, choice.reason) == ("2x", "slo: tpot at 93% of its limit")
        now[0] += 60
        registry = CollectorRegistry()
        registry.register(chooser.collector("fam"))

        def value(name: str, **labels: str) -> float | None:
            return registry.get_sample_value(name, {"model": "fam"} | labels)

        assert value("lathe_subnet_switches_total", subnet="2x") == 1
        assert value("lathe_subnet_switches_total", subnet="1.2x") == 0
        assert value("lathe_subnet_active_seconds_total", subnet="2x") == 60
        assert value("lathe_slo_pressure_ratio") == 0
    finally:
        chooser.close()


def test_slo_sees_who_waits_and_who_runs() -> None:
    chooser = SloChooser({"1.2x": 11, "2x": 6}, {"ttft": 0.2}, lambda: 100.0)
    chooser.watch({"1.2x": backend(since=99.8), "2x": backend()})
    assert chooser.choose(()).reason == "slo: ttft at 100% of its limit"
    chooser.close()
    chooser = SloChooser({"1.2x": 11, "2x": 6}, {"ttft": 0.2}, lambda: 100.0)
    chooser.watch({"1.2x": backend(running=7), "2x": backend()})
    assert chooser.choose(()).reason == "slo: slots at 88% of its limit"
    chooser.close()
