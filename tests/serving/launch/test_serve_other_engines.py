"""Engines of other distributions: served with by name, and named where they do not load."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.plugins import install

PARROT = """
def serve(model, options):
    options.announce(f"http://{options.host}:{options.port}", f"a parrot of {model}")
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    engines = {"parrot": "lathe_parrot:serve", "mute": "lathe_parrot:absent", "onnx": "lathe_parrot:serve"}
    return install(tmp_path_factory.mktemp("site"), "lathe-parrot", PARROT, {"lathe.engines": engines})


def serve(site: Path, engine: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lathe", "serve", "out", "--port", "7", "--engine", engine]
    environment = os.environ | {"PYTHONPATH": str(site)}
    return subprocess.run(command, env=environment, cwd=site, capture_output=True, text=True, timeout=120)


def test_an_engine_of_another_distribution_serves(site: Path) -> None:
    ran = serve(site, "parrot")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("ready: a parrot of out at http://127.0.0.1:7/v1")


def test_one_that_does_not_load_is_named(site: Path) -> None:
    ran = serve(site, "mute")
    assert (ran.returncode, ran.stdout) == (1, "")
    told = "error: the engine `mute` of the distribution lathe-parrot 1.2 is left out: lathe_parrot:absent "
    assert ran.stderr.splitlines()[-1].startswith(f"{told}cannot be loaded (AttributeError: ")


def test_ours_stay_ours(site: Path) -> None:
    ran = serve(site, "onnx")
    assert ran.returncode == 1
    assert "error: out is not a directory" in ran.stderr
    unknown = serve(site, "budgie")
    assert "there is no engine `budgie`. Known: auto, llamacpp, mute, onnx, parrot, vllm." in unknown.stderr
    assert (
        "the engine `onnx` of the distribution lathe-parrot 1.2 is left out: that name is taken"
        in unknown.stderr
    )
