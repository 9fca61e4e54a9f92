"""A comparison's setting on a tiny random Llama."""

from __future__ import annotations

import pytest
from tiny_setting import make_setting

from benchmarks.quality.setting import Setting


@pytest.fixture(scope="session")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return make_setting(tmp_path_factory.mktemp("dense"))
