"""Our wheel: what it holds, and that it can lie beside another distribution with a package `compressor`."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("artefact", "compressor", "serving")
DATA = ("compressor/report/page/templates", "serving/playground/static")
"""Folders whose files are no modules."""
DJANGO_COMPRESSOR = {"compressor", "django_compressor-4.6.0.dist-info"}
"""What the wheel of django-compressor 4.6.0 has at its top level."""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the wheel that is built from this tree."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("lathe", *PACKAGES):
        shutil.copytree(
            ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(built)]
    command = [sys.executable, "-m", "pip", "wheel", *options, str(source)]
    subprocess.run(command, check=True, cwd=built, env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    (wheel,) = built.glob("lathe-*.whl")
    with ZipFile(wheel) as archive:
        archive.extractall(built / "unpacked")
    return built / "unpacked"


def files(folder: Path, *patterns: str) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for pattern in patterns
        for path in folder.rglob(pattern)
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_it_holds_one_package_with_all_modules_and_pages(unpacked: Path) -> None:
    top = {path.name for path in unpacked.iterdir() if not path.name.endswith(".dist-info")}
    assert top == {"lathe"}
    ours = {f"{name}/{file}" for name in PACKAGES for file in files(ROOT / name, "*.py")}
    ours |= {f"{folder}/{file}" for folder in DATA for file in files(ROOT / folder, "*")}
    ours |= {path.name for path in (ROOT / "lathe").glob("*.py")}
    assert files(unpacked / "lathe", "*") == ours
    assert {"compressor/report/page/templates/page.html", "serving/playground/static/index.html"} <= ours


def test_no_file_is_also_django_compressors(unpacked: Path) -> None:
    assert {path.name for path in unpacked.iterdir()}.isdisjoint(DJANGO_COMPRESSOR)


def test_what_vllm_loads_is_in_it(unpacked: Path) -> None:
    (metadata,) = unpacked.glob("*.dist-info/entry_points.txt")
    points = ConfigParser()
    points.read(metadata)
    groups = ("vllm.general_plugins", "vllm.stat_logger_plugins")
    named = [points[group]["lathe"].split(":") for group in groups]
    for module, name in named:
        tree = ast.parse((unpacked / f"{module.replace('.', '/')}.py").read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    code = f"import {named[0][0]} as plugin; print(plugin.register, plugin.__file__)"
    environment = os.environ | {"PYTHONPATH": str(unpacked)}
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=unpacked,
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(unpacked) in ran.stdout


ALONE = """
import sys
sys.meta_path = [f for f in sys.meta_path if "__editable__" not in getattr(f, "__module__", "")]
from lathe.cli import lathe
lathe()
"""
"""Runs the command line without an editable installation of Lathe, which would find what is missing here."""


def test_a_server_needs_no_compressor(unpacked: Path, tmp_path: Path) -> None:
    shutil.copytree(unpacked, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("compressor"))
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}

    def lathe(*arguments: str) -> str:
        command = [sys.executable, "-c", ALONE, *arguments]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True).stderr

    assert lathe("serve", "nowhere") == (
        "error: nowhere is not a directory. Give the output directory of `lathe compress`.\n"
    )
    assert lathe("compress", "model", "--keep", "60%") == (
        "error: `compress` is not in this installation of Lathe. Run it where all of Lathe is.\n"
    )


@pytest.mark.slow
def test_both_distributions_lie_in_one_environment(unpacked: Path, tmp_path: Path) -> None:
    """Django-compressor's own wheel is fetched, where there is a network."""
    options = ["--no-deps", "--quiet", "--dest", str(tmp_path), "django-compressor==4.6.0"]
    fetched = subprocess.run([sys.executable, "-m", "pip", "download", *options], check=False)
    if fetched.returncode:
        pytest.skip("django-compressor cannot be fetched")
    (wheel,) = tmp_path.glob("*.whl")
    with ZipFile(wheel) as archive:
        theirs = {name for name in archive.namelist() if not name.endswith("/")}
    assert {name.partition("/")[0] for name in theirs} == DJANGO_COMPRESSOR
    assert files(unpacked, "*").isdisjoint(theirs)
