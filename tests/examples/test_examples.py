"""The examples, run as they stand."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import SeedOssConfig, SeedOssForCausalLM

from support.compress_command import Tiny, make_tiny
from support.plugins import install
from support.tiny_server import save_tokenizer

EXAMPLES = Path(__file__).parents[2] / "examples"
PROJECT = EXAMPLES / "custom_family"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return make_tiny(tmp_path_factory.mktemp("examples"))


@pytest.fixture(scope="module")
def calibrated(tiny: Tiny) -> tuple[Path, str]:
    """An artefact without a graph, and what was printed."""
    other, out = tiny.text.with_name("other.txt"), tiny.model.parent / "out"
    other.write_text(tiny.text.read_text().replace("fox", "bear"))
    return out, run("calibration_text.py", tiny.model, out, tiny.text, tiny.text, other)


def run(name: str, *arguments: object, path: Path | None = None) -> str:
    """Runs an example; returns what it prints. `path`: a folder with installed distributions."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(path or "")}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_every_example_is_named_and_run() -> None:
    listed = (EXAMPLES / "README.md").read_text()
    scripts = {path.name for path in EXAMPLES.glob("*.py")} | {PROJECT.name}
    tests = Path(__file__).read_text()
    assert all(f"({name}" in listed and f'"{name}' in tests for name in scripts)


def test_a_calibration_text(tiny: Tiny, calibrated: tuple[Path, str]) -> None:
    assert calibrated[1].startswith("fitted on ")
    assert f"perplexity on {tiny.text}: " in calibrated[1]


def test_read_a_report(calibrated: tuple[Path, str]) -> None:
    lines = run("read_report.py", calibrated[0]).splitlines()
    assert lines[0].startswith("layer 0: ")
    assert any(line.startswith("weight_bytes: ") for line in lines)


def test_serve_and_query(tiny: Tiny) -> None:
    assert run("serve_and_query.py", tiny.model).strip()


@pytest.mark.slow
def test_compress_read_and_serve(tiny: Tiny, tmp_path: Path) -> None:
    assert run("compress.py", tiny.model, tmp_path / "out").startswith("done: ")
    assert "tpot: " in run("read_report.py", tmp_path / "out")
    assert run("serve_and_query.py", tmp_path / "out").strip()


def seed_oss(directory: Path) -> Path:
    """A small random model of the family in the example, with biases that are not 0."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}
    model = SeedOssForCausalLM(SeedOssConfig(**sizes, **heads, **ends, max_position_embeddings=512))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1 if name.endswith("bias") else parameter * 4)
    model.save_pretrained(directory)
    save_tokenizer(directory)
    return directory


def test_a_custom_family(tiny: Tiny, tmp_path: Path) -> None:
    """Compress checks what it writes against transformers' own model of the family."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    code = (PROJECT / "lathe_seed_oss.py").read_text()
    site = install(tmp_path / "site", project["name"], code, project["entry-points"])
    model, text = seed_oss(tmp_path / "model"), tiny.text
    assert run("calibration_text.py", model, tmp_path / "out", text, text, path=site).startswith("fitted on ")


@pytest.mark.slow
def test_the_custom_family_is_installed_by_pip(tmp_path: Path) -> None:
    project = tmp_path / "custom_family"
    shutil.copytree(PROJECT, project)
    site = tmp_path / "site"
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", str(site)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(project)], check=True)
    listed = subprocess.run(
        [sys.executable, "-m", "lathe", "families"],
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "seed_oss" in listed.stdout
