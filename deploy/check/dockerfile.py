"""The Dockerfile: hadolint's opinion, and what a container would be started with."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

from deploy.check.programs import ROOT, TOOLS, run
from deploy.check.report import Row

DOCKERFILE = ROOT / "Dockerfile"
CARELESS = "FROM python:latest\nRUN cd /tmp && pip install flask\nCMD python app.py\n"
Stage = list[tuple[str, str]]


def stages(text: str) -> dict[str, Stage]:
    """Instructions (name, value) of each named stage, in order; those before the first FROM under ''."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found: dict[str, Stage] = {"": []}
    stage = found[""]
    for line in filter(None, map(str.strip, joined.splitlines())):
        instruction, _, value = line.partition(" ")
        if instruction == "FROM":
            stage = found[value.split(" AS ")[1].strip()] = []
        stage.append((instruction, value.strip()))
    return found


def last(stage: Stage, instruction: str) -> str:
    return [value for name, value in stage if name == instruction][-1]


def started(stage: Stage) -> list[str]:
    """The first process of a container: ENTRYPOINT and CMD, which have to be in exec form."""
    return [*json.loads(last(stage, "ENTRYPOINT")), *json.loads(last(stage, "CMD"))]


def health_command(stage: Stage) -> list[str]:
    command: list[str] = json.loads(last(stage, "HEALTHCHECK").partition("CMD ")[2])
    return command


def lint() -> list[Row]:
    """No finding; and findings where there should be some, so that silence means something."""
    with tempfile.TemporaryDirectory() as directory:
        careless = Path(directory) / "Dockerfile"
        careless.write_text(CARELESS)
        control = _hadolint(careless)
    found = _hadolint(DOCKERFILE)
    if len(control) < 3:
        found = [*found, f"hadolint finds only {control} in a careless Dockerfile"]
    return [Row("hadolint Dockerfile", f"{len(found)} findings ({len(control)} in a careless one)", found)]


def _hadolint(file: Path) -> list[str]:
    _, output = run(TOOLS / "bin/hadolint", "--no-fail", "--format", "json", file)
    return [f"line {f['line']}: {f['code']} {f['message']}" for f in json.loads(output)]
