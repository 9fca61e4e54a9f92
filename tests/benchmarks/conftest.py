"""A comparison's setting on a tiny random Llama."""

from __future__ import annotations

import pytest

from benchmarks.quality.setting import Setting
from lathe.compressor.compute.progress import Progress
from support.tiny_problem import make_lab


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
