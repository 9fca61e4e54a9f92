"""Runs of pytest in environments of their own, and what came of each test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree


def outcomes(
    python: Path,
    folder: Path,
    arguments: Sequence[str],
    variables: Mapping[str, str],
    report: Path,
) -> dict[str, str | None]:
    """By test what it complained of, or why it was skipped; None where it passed. Run in `folder`."""
    options = ["-q", "--override-ini", "addopts=", "-p", "no:cacheprovider", f"--junit-xml={report}"]
    command = [str(python.absolute()), "-m", "pytest", *arguments, *options]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | variables, capture_output=True, text=True, check=False
    )
    if not report.exists():
        raise RuntimeError(f"pytest did not run in {folder}: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    cases = list(ElementTree.parse(report).iter("testcase"))
    return {_name(case): _complaint(case) if len(case) else None for case in cases}


def _name(case: ElementTree.Element) -> str:
    return f"{case.get('classname', '')}.{case.get('name')}"


def _complaint(case: ElementTree.Element) -> str:
    """What the server answered, or what else went wrong."""
    return " ".join((case[0].get("message") or case[0].text or "skipped").split())[:200]
