"""The page of the Python interface names what is there, and everything on it is explained.

`make docs` renders it from the same docstrings, without imports; an object without one would not be shown.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from support.compress_command import make_tiny

PAGE = Path(__file__).parents[2] / "docs/reference/api.md"
METHODS = (FunctionType, classmethod, staticmethod, property, cached_property)
NAMES = re.findall(r"^::: ([\w.]+)$", PAGE.read_text(), re.MULTILINE)


def find(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def explained(name: str) -> Iterator[tuple[str, str | None]]:
    """(name, docstring) of an object of the page, and of what it shows of a class."""
    found = find(name)
    if not inspect.isclass(found) and not inspect.isfunction(found):
        yield name, _beside(name)
        return
    yield name, found.__doc__
    if inspect.isclass(found):
        fields = inspect.get_annotations(found)
        for member, value in vars(found).items():
            if isinstance(value, METHODS) and not member.startswith("_") and member not in fields:
                yield f"{name}.{member}", value.__doc__


def _beside(name: str) -> str | None:
    """The string below an assignment."""
    module, _, attribute = name.rpartition(".")
    body = ast.parse(inspect.getsource(importlib.import_module(module))).body
    for statement, below in itertools.pairwise(body):
        targets = getattr(statement, "targets", [getattr(statement, "target", None)])
        if any(isinstance(target, ast.Name) and target.id == attribute for target in targets):
            value = getattr(below, "value", None)
            return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None
    return None


@pytest.mark.parametrize("name", NAMES)
def test_what_is_on_the_page_is_there_and_explained(name: str) -> None:
    generated = f"{name.rpartition('.')[2]}("  # a dataclass without a docstring is given its signature
    assert [part for part, text in explained(name) if not text or text.startswith(generated)] == []


def test_links_into_the_page_lead_to_what_is_on_it() -> None:
    links = set(re.findall(r"\(#([\w.]+)\)", PAGE.read_text()))
    assert links <= set(NAMES)


class Half:
    """Explained."""

    def silent(self) -> None: ...


def test_what_is_not_explained_is_noticed() -> None:
    found = dict(explained(f"{__name__}.Half"))
    assert found == {f"{__name__}.Half": "Explained.", f"{__name__}.Half.silent": None}
    assert dict(explained(f"{__name__}.METHODS")) == {f"{__name__}.METHODS": None}


@pytest.mark.slow
def test_the_example_is_found_by_being_there(tmp_path: Path) -> None:
    """The page's files, put where they say into a copy of the packages, are a method that runs."""
    files = re.findall(r"```python\n# (compressor/\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert [Path(name).name for name, _ in files] == ["norms.py", "norms.py"]
    for package in ("lathe", "artefact", "compressor", "serving"):
        shutil.copytree(PAGE.parents[2] / package, tmp_path / package, symlinks=True)
    for name, text in files:
        (tmp_path / name).write_text(text)
    tiny, out = make_tiny(tmp_path), tmp_path / "out"
    arguments = tiny.arguments(out, "--keep", "60%", "--method", "norms", "--export", "checkpoint")
    subprocess.run(
        [sys.executable, "-m", "lathe", "compress", *arguments],
        env=os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        check=True,
    )
    assert json.loads((out / "report.json").read_text())["method"] == "norms"
