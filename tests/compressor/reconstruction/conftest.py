"""Steps in full precision, where a test compares them with the exact solution, and in bfloat16."""

from __future__ import annotations

import pytest

from lathe.compressor.compute import precision
from lathe.compressor.reconstruction import block_moments, kl_passes


def _pretend(monkeypatch: pytest.MonkeyPatch, has: bool) -> None:
    for module in (precision, block_moments, kl_passes):
        monkeypatch.setattr(module, "has_bfloat16", lambda _device: has)


@pytest.fixture
def exact_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products in float32 everywhere."""
    _pretend(monkeypatch, False)


@pytest.fixture
def bfloat16_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products in bfloat16 whatever the processor is good at."""
    _pretend(monkeypatch, True)
