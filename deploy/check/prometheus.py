"""A real Prometheus with the configuration and the rules of `deploy/prometheus`, only quicker."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from deploy.check.programs import DEBIAN, free_port
from deploy.check.rules import CONFIG, RULES

INTERVAL = "1s"
START_S = 60.0
NAMESPACE = "lathe"
"""Kubernetes' discovery sets this label, which the scaler's queries ask for."""


@dataclass(frozen=True)
class Prometheus:
    url: str

    def get(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=30) as answer:
            return json.load(answer)["data"]

    def values(self, expression: str) -> list[float]:
        """Of the series that it answers with now; NaN is no answer."""
        data = self.get("query", query=expression)
        samples = [data["result"]] if data["resultType"] == "scalar" else [s["value"] for s in data["result"]]
        return [value for _, text in samples if (value := float(text)) == value]


@contextlib.contextmanager
def prometheus(directory: Path, targets: Sequence[str], key: Path) -> Iterator[Prometheus]:
    """Scraping `targets` (host:port) with the key; its data is in `directory`."""
    address = f"127.0.0.1:{free_port()}"
    (directory / "rules.yml").write_text(_quick_rules())
    config = directory / "prometheus.yml"
    config.write_text(yaml.safe_dump(configuration(targets, key, directory / "rules.yml")))
    process = subprocess.Popen(
        [
            DEBIAN / "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address={address}",
            "--log.level=warn",
        ]
    )
    try:
        _wait_until_it_answers(address, process)
        yield Prometheus(f"http://{address}")
    finally:
        process.terminate()
        process.wait()


def configuration(targets: Sequence[str], key: Path, rules: Path) -> dict[str, Any]:
    """The one of deploy/compose with addresses and paths of this machine."""
    config: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    config["global"] = {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL}
    config["rule_files"] = [str(rules)]
    [job] = config["scrape_configs"]
    job["authorization"]["credentials_file"] = str(key)
    job["static_configs"] = [{"targets": list(targets), "labels": {"namespace": NAMESPACE}}]
    return config


def _quick_rules() -> str:
    rules = yaml.safe_load(RULES.read_text())
    for group in rules["groups"]:
        group["interval"] = INTERVAL
    return str(yaml.safe_dump(rules))


def _wait_until_it_answers(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{address}/-/ready", timeout=5):
            return
        time.sleep(0.2)
    raise RuntimeError("Prometheus did not start; what it said is above")
