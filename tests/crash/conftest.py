"""The figures of the whole run as a table and as build/bench/crash.json."""

from __future__ import annotations

import json
from typing import Any

import pytest

ROWS = pytest.StashKey[list[dict[str, Any]]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []


@pytest.fixture(scope="session")
def table(pytestconfig: pytest.Config) -> list[dict[str, Any]]:
    """Rows that are printed at the end: crash, at, after, left behind."""
    return pytestconfig.stash[ROWS]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash.get(ROWS, [])
    if not rows:
        return
    terminalreporter.section("crashes")
    for row in rows:
        terminalreporter.line(f"{row['crash']:18}{row['at']:28}{row['after']:36}{row['left']}")
    path = config.rootpath / "build/bench/crash.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=2) + "\n")
    terminalreporter.line(f"written to {path}")
