"""The board's and the rules' expressions against the names that the server really has."""

from __future__ import annotations

import re

import pytest
import yaml

from deploy.check import expressions, rules
from lathe.serving.metrics.gpu import GPU_MEMORY, GPU_TOTAL
from lathe.serving.metrics.registry import GAUGES, MODEL_INFO, PAGE_GAUGES, Metrics
from lathe.serving.metrics.switching import NAMES

OF_GPU = {
    "panel GPU memory by component, per replica",
    "record lathe:gpu_memory_used:ratio",
    "alert LatheGpuMemoryFull",
}


def every() -> list[expressions.Expression]:
    return [*expressions.of_panels(), *expressions.of_rules(), *expressions.of_scaler()]


def test_every_metric_is_one_that_the_server_reports():
    metrics = Metrics("m", 20.0)
    samples = {sample.name for family in metrics.exposition.registry.collect() for sample in family.samples}
    samples |= {*GAUGES, *PAGE_GAUGES, *NAMES, MODEL_INFO[0], GPU_MEMORY, GPU_TOTAL, "up"}
    recorded = {rule["record"] for group in rules.groups() for rule in group["rules"] if "record" in rule}
    for expression in every():
        asked = set(re.findall(r"\b(?:up|lathe[_:][a-z0-9_:]+)", re.sub(r'"[^"]*"', "", expression.text)))
        assert asked, expression
        assert asked <= {name for name in samples if "_created" not in name} | recorded, expression


def test_only_these_need_a_gpu():
    assert {re.sub(r" [A-E]$", "", e.where) for e in every() if e.of_gpu} == OF_GPU
    assert expressions.gpu_metrics() == {GPU_MEMORY, GPU_TOTAL}


def test_what_needs_a_family_is_its_own_row() -> None:
    titles = {re.sub(r" [A-E]$", "", e.where) for e in every() if e.of_family}
    row = ("Where new requests go", "Pressure, and switches a minute", "Weights of subnets")
    assert titles == {f"panel {title}" for title in row}


def test_alerts_are_comparisons():
    assert expressions.compared("up == 0") == ["up"]
    assert expressions.compared("a:b > 0.2\n and c >= 20") == ["a:b", "c"]
    with pytest.raises(ValueError, match="does not compare"):
        expressions.compared("absent(up)")


def test_every_alert_is_tested_and_every_expectation_can_be_broken():
    tests = yaml.safe_load(rules.TESTS.read_text())
    tested = {test["alertname"] for case in tests["tests"] for test in case.get("alert_rule_test", [])}
    assert tested == {alert["alert"] for alert in rules.alerts()}
    changed = list(rules.mutations(tests))
    kinds = ("alert_rule_test", "promql_expr_test")
    assert len(changed) == sum(len(case.get(kind, [])) for case in tests["tests"] for kind in kinds)
    assert len(changed) > len(tested)
    assert all(document != tests for _, document in changed)


def test_panels_neither_overlap_nor_leave_the_board():
    taken: set[tuple[int, int]] = set()
    for panel in expressions.board()["panels"]:
        place = panel["gridPos"]
        columns, lines = (range(place[at], place[at] + place[size]) for at, size in ("xw", "yh"))
        cells = {(x, y) for x in columns for y in lines}
        assert columns.stop <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    identities = [panel["id"] for panel in expressions.board()["panels"]]
    assert len(identities) == len(set(identities))


def test_every_query_goes_to_the_chosen_source_and_model():
    names = {variable["name"] for variable in expressions.board()["templating"]["list"]}
    assert names == {"datasource", "model"}
    for panel in expressions.panels():
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            assert 'model=~"$model"' in target["expr"]
