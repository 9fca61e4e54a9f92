"""A comparison's setting on a tiny random Llama."""

from __future__ import annotations

import pytest
from support.tiny_problem import make_lab

from benchmarks.quality.setting import Setting
from lathe.compressor.compute.progress import Progress


@pytest.fixture(scope="session")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    lab = make_lab(tmp_path_factory.mktemp("dense"))
    return Setting(
        lab.source,
        lab.runner,
        lab.head,
        lab.embedding,
        lab.layers,
        lab.windows[~lab.heldout],
        lab.windows[lab.heldout],
        lab.statistics,
        0,
        Progress(quiet=True),
    )
