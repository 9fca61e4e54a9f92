"""The exporter on the page about extending Lathe is found by its entry point and writes the subnet."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lathe.artefact.registry import Registry
from lathe.compressor.export.layout import pruned_tensors
from support.plugins import install
from support.tiny_llama import PLANS, checkpoint, pruned

PAGE = (Path(__file__).parents[2] / "docs/how-to/extend.md").read_text()


@pytest.fixture
def exporter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (code,) = re.findall(r"```python\n# lathe_npy.py\n(.*?)```", PAGE, re.DOTALL)
    ((group, name, value),) = re.findall(r'entry-points\."(.*?)"\]\n(\w+) = "(.*?)"', PAGE)
    monkeypatch.syspath_prepend(install(tmp_path / "site", "lathe-npy", code, {group: {name: value}}))
    return Registry[Any]("exporter", "lathe.compressor.export", group).get(name)


def test_the_example_writes_every_tensor_of_the_subnet(tmp_path: Path, exporter: Any) -> None:
    job = pruned(checkpoint(tmp_path / "dense"), PLANS["no attention middle"])
    out = tmp_path / "out"
    out.mkdir()
    exporter.write(out, job)
    written = {file.stem: np.load(file) for file in (out / exporter.folder).iterdir()}
    shapes = {name: value.shape for name, value in written.items()}
    assert shapes == dict(pruned_tensors(job.source.shape, job.plan))
    for name, value in written.items():
        np.testing.assert_array_equal(value, job.stored(name).float().numpy())
