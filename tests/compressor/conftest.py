"""Models that many modules' tests read and none changes."""

from __future__ import annotations

import pytest
from tiny_problem import Lab, make_lab


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return make_lab(tmp_path_factory.mktemp("lab") / "tiny")
