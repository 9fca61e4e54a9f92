"""The compose files: by the specification's schema, and by Docker Compose, which needs no daemon for that."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from deploy.check.programs import DEPLOY, TOOLS, run
from deploy.check.report import Row

FILES = {"compose.yaml": ["compose.yaml"], "compose.yaml + gpu.yaml": ["compose.yaml", "gpu.yaml"]}
BROKEN = """\
services:
  server:
    image: lathe:cpu
    secrets: [api_kye]
"""


def check() -> list[Row]:
    rows = [Row("compose-spec schema", "compose.yaml", _schema(DEPLOY / "compose/compose.yaml"))]
    for title, files in FILES.items():
        findings = _config([DEPLOY / "compose" / file for file in files])
        rows.append(Row("docker-compose config -q", title, findings))
    return [*rows, _control()]


def _schema(file: Path) -> list[str]:
    status, output = run(TOOLS / "bin/check-jsonschema", "--builtin-schema", "vendor.compose-spec", file)
    return output.splitlines() if status else []


def _config(files: list[Path]) -> list[str]:
    chosen = [part for file in files for part in ("--file", str(file))]
    model = f"LATHE_MODEL={os.curdir}"
    status, output = run("env", model, _binary(), *chosen, "config", "--quiet")
    return output.splitlines() if status else []


def _binary() -> Path:
    """Docker Compose itself; the package's script in bin/ hides its exit status."""
    [found] = TOOLS.glob("lib/python*/site-packages/compose/docker-compose")
    found.chmod(0o755)
    return found


def _control() -> Row:
    """A secret that nobody defines, which no schema sees."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "compose.yaml"
        file.write_text(BROKEN)
        noticed = _config([file])
    missed = [] if noticed else ["docker-compose takes a secret that is not defined"]
    return Row("a secret that is not defined is noticed", noticed[0][-60:] if noticed else "no", missed)
