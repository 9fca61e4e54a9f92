"""Prometheus' rules: checked, tested, and the tests themselves tested by changing what they expect."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from deploy.check.programs import DEBIAN, DEPLOY, run
from deploy.check.report import Row

RULES = DEPLOY / "prometheus/rules.yml"
TESTS = DEPLOY / "prometheus/rules.test.yml"
CONFIG = DEPLOY / "prometheus/prometheus.yml"


def groups() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"]
    return found


def alerts() -> list[dict[str, Any]]:
    return [rule for group in groups() for rule in group["rules"] if "alert" in rule]


def check() -> list[Row]:
    return [
        _row("promtool check rules", _promtool("check", "rules", RULES)),
        _config(),
        _row("promtool test rules", _promtool("test", "rules", TESTS)),
        _mutations(),
    ]


def mutations(tests: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Copies of the tests, each with one expectation changed to what is wrong, and what was changed.

    An alert that should fire is expected not to; one that should not, to; a value is one more.
    """
    for number, case in enumerate(tests["tests"]):
        for position, test in enumerate(case.get("alert_rule_test", [])):
            changed = copy.deepcopy(tests)
            target = changed["tests"][number]["alert_rule_test"][position]
            target["exp_alerts"] = [] if target["exp_alerts"] else [{"exp_labels": {"severity": "none"}}]
            yield f"{test['alertname']} at {test['eval_time']}", changed
        for position, test in enumerate(case.get("promql_expr_test", [])):
            changed = copy.deepcopy(tests)
            changed["tests"][number]["promql_expr_test"][position]["exp_samples"][0]["value"] += 1
            yield test["expr"], changed


def _mutations() -> Row:
    tests = yaml.safe_load(TESTS.read_text()) | {"rule_files": [str(RULES)]}
    unnoticed, count = [], 0
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "changed.yml"
        for what, changed in mutations(tests):
            count += 1
            file.write_text(yaml.safe_dump(changed))
            status, output = run(DEBIAN / "promtool", "test", "rules", file)
            if status == 0 or "FAILED" not in output:
                unnoticed.append(f"passes with its expectation changed: {what}")
    return Row("changed expectations fail", f"{count - len(unnoticed)} of {count} noticed", unnoticed)


def _config() -> Row:
    """The configuration names paths of its container; here they are ours."""
    with tempfile.TemporaryDirectory() as directory:
        key, file = Path(directory) / "key", Path(directory) / "prometheus.yml"
        key.write_text("key")
        text = CONFIG.read_text().replace("/run/secrets/api_key", str(key))
        file.write_text(text.replace("/etc/prometheus/rules.yml", str(RULES)))
        return _row("promtool check config", _promtool("check", "config", file))


def _promtool(*arguments: str | Path) -> tuple[int, str]:
    return run(DEBIAN / "promtool", *arguments)


def _row(check: str, done: tuple[int, str]) -> Row:
    status, output = done
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return Row(check, lines[-1][:80], lines if status else ())
