"""The import contracts of pyproject.toml hold, and each of them fails when it is broken on purpose."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BROKEN = {
    "the wings": (
        "serving/api/tokenize.py",
        "lathe.compressor.model.checkpoint",
        "Compressor and serving never",
    ),
    "a late import": ("compressor/export/dense.py", "lathe.serving.backend", "Compressor and serving never"),
    "the contract": ("artefact/plan.py", "lathe.compressor.search.space", "Compressor and serving never"),
    "a command": ("serving/launch/server.py", "lathe.cli", "nothing of the umbrella package"),
    "the Python interface": ("serving/launch/local.py", "lathe.run_serve", "nothing of the umbrella package"),
    "its other half": ("compressor/cli/jobs.py", "lathe.run_compress", "nothing of the umbrella package"),
    "a circle": ("compressor/search/space.py", "lathe.compressor.search.knapsack", "No circle"),
    "a layer": (
        "compressor/model/checkpoint.py",
        "lathe.compressor.search.space",
        "layers of the compressor",
    ),
    "a layer of the server": ("serving/http/errors.py", "lathe.serving.api.service", "layers of the server"),
    "torch": ("serving/loadtest/load.py", "torch", "without torch"),
    "torch in the contract": ("artefact/width_rules.py", "torch", "without torch"),
    "torch by way of a model": ("serving/api/tokenize.py", "lathe.artefact.modeling.load", "without torch"),
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("artefact", "compressor", "serving"):
        shutil.copytree(ROOT / name, tmp_path / "lathe" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in (ROOT / "lathe").glob("*.py"):
        shutil.copy(file, tmp_path / "lathe")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    program = (
        f"import sys; sys.path.insert(0, {str(tree)!r}); from importlinter.cli import lint_imports_command"
    )
    command = [sys.executable, "-c", f"{program}; lint_imports_command(['--no-cache'])"]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True)


def test_the_contracts_hold(tree: Path) -> None:
    done = lint(tree)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(("file", "module", "contract"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_contract_is_named(tree: Path, file: str, module: str, contract: str) -> None:
    path = tree / "lathe" / file
    path.write_text(f"{path.read_text()}\n\ndef _late() -> None:\n    import {module}\n")
    done = lint(tree)
    assert done.returncode == 1, done.stdout
    broken = [line for line in done.stdout.splitlines() if line.endswith(" BROKEN")]
    assert any(contract in line for line in broken), done.stdout


def test_all_modules_but_those_for_torch_and_vllm_are_to_do_without_torch() -> None:
    """The contract lists modules, so that a new one has to be added."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = (one for one in contracts if one["name"].endswith("without torch"))
    folders = ("artefact", "serving", "serving/launch", "serving/launch/engines")
    files = [
        file for folder in folders for file in (ROOT / folder).iterdir() if file.stem[:2] not in ("__", ".")
    ]
    modules = {".".join(["lathe", *file.relative_to(ROOT).with_suffix("").parts]) for file in files}
    exempt = ("artefact.modeling", "serving.vllm", "serving.launch", "serving.launch.engines")
    exempt += ("serving.launch.engines.vllm",)
    assert modules - {f"lathe.{name}" for name in exempt} == set(contract["source_modules"])


def test_no_string_names_the_other_wing() -> None:
    for wing, other in (("compressor", "lathe.serving"), ("serving", "lathe.compressor")):
        files = [file for file in (ROOT / wing).rglob("*.py") if other in file.read_text()]
        assert not files
