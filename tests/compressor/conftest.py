"""Models that many modules' tests read and none changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from support import steady_clock
from support.compress_command import Tiny, make_tiny
from support.tiny_problem import Lab, make_lab

settings.register_profile("lathe", deadline=None)  # a busy machine is no failure
settings.load_profile("lathe")


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return make_lab(tmp_path_factory.mktemp("lab") / "tiny")


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latencies follow from plans, not from this machine."""
    steady_clock.hold(monkeypatch)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Latencies of earlier tests are not at hand."""
    monkeypatch.setenv("LATHE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return make_tiny(tmp_path_factory.mktemp("compress"))
