"""Every PromQL expression that somebody would look at: of the board, the alerts, the scaler."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from deploy.check import rules
from deploy.check.programs import DEPLOY, ROOT

BOARD = DEPLOY / "grafana/lathe.json"
SCALER = DEPLOY / "kustomize/components/keda/scaledobject.yaml"
RATE_INTERVAL = "20s"
"""What Grafana makes of $__rate_interval at a scrape interval of 5 s."""
CONDITION = re.compile(r"(?P<left>.+?)\s*(==|!=|>=|<=|>|<)\s*[0-9.]+", re.DOTALL)


@dataclass(frozen=True)
class Expression:
    where: str
    text: str

    @property
    def of_gpu(self) -> bool:
        """Whether it has data only where there is a GPU."""
        return bool(re.search(r"lathe_gpu_\w+|lathe:gpu_\w+", self.text))

    @property
    def of_family(self) -> bool:
        """Whether it has data only where a family of subnets is served."""
        return bool(re.search(r"lathe_(subnet|family|slo)_\w+", self.text))


def board() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(BOARD.read_text())
    return document


def panels() -> list[dict[str, Any]]:
    return [panel for panel in board()["panels"] if panel["type"] != "row"]


def of_panels() -> Iterator[Expression]:
    """With the variables as Grafana fills them in for all models."""
    for panel in panels():
        for target in panel["targets"]:
            text = target["expr"].replace("$__rate_interval", RATE_INTERVAL).replace("$model", ".+")
            yield Expression(f"panel {panel['title']} {target['refId']}", text)


def of_rules() -> Iterator[Expression]:
    """Recorded series; and what alerts compare, without the comparison, which only a sick server meets."""
    for group in rules.groups():
        for rule in group["rules"]:
            if "record" in rule:
                yield Expression(f"record {rule['record']}", rule["expr"])
            else:
                for left in compared(rule["expr"]):
                    yield Expression(f"alert {rule['alert']}", left)


def of_scaler() -> Iterator[Expression]:
    for trigger in yaml.safe_load(SCALER.read_text())["spec"]["triggers"]:
        yield Expression(f"scaler {trigger['name']}", trigger["metadata"]["query"])


def compared(alert: str) -> list[str]:
    """The left sides of `a > 1 and b == 0`. Raises ValueError on an alert of another form."""
    found = []
    for condition in re.split(r"\s+and\s+", alert):
        match = CONDITION.fullmatch(condition.strip())
        if match is None:
            raise ValueError(f"{condition!r} does not compare a series with a number")
        found.append(match["left"])
    return found


def gpu_metrics() -> set[str]:
    """The names in serving/metrics/gpu.py, which is read, not imported: it needs the server's environment."""
    tree = ast.parse((ROOT / "serving/metrics/gpu.py").read_text())
    strings = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {text for text in strings if isinstance(text, str) and text.startswith("lathe_gpu_")}
