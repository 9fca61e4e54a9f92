"""Runs of `compress` on the demo model in processes of their own, to be killed or starved."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
TIMED = ("report.json", "report.html", "trace.jsonl", "manifest.json")
"""What differs between two runs: they tell times."""


def command(out: Path, *options: str) -> list[str]:
    return [
        sys.executable,
        "-c",
        "from lathe.cli import compress; compress()",
        "demo/model",
        "--keep",
        "70%",
        "--calibration",
        "demo/heldout.txt",
        "--calibration-tokens",
        "2048",
        "--context",
        "64",
        "-o",
        str(out),
        *options,
    ]


def environment(threads: int = 1) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)}


def start(out: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(out, *options),
        cwd=ROOT,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(out, *options), cwd=ROOT, env=environment(), text=True, capture_output=True, timeout=1800
    )


def hashes(out: Path) -> dict[str, str]:
    """Of every file of an artefact that does not tell times."""
    files = sorted(path for path in out.rglob("*") if path.is_file() and path.name not in TIMED)
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def left_behind(out: Path) -> str:
    """What a killed run has finished, in short."""
    run = out.with_name(out.name + ".run")
    if not run.is_dir():
        return "the artefact" if out.exists() else "nothing"
    kinds = Counter(path.name.split("-")[0].split(".")[0] for path in run.iterdir() if path.name != "lock")
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "nothing"


def row(crash: str, at: str, left: str, after: str) -> dict[str, Any]:
    """Of the table of crashes: what, when, what was left behind, how it ended."""
    return {"crash": crash, "at": at, "left": left, "after": after}


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Workers of Ray that a run has up."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                line = child.cmdline()
                if line and line[0].startswith("ray::Worker"):
                    found.append(child)
    return found
