"""Steps of full precision on all of the text, where a test compares them with the exact solution."""

from __future__ import annotations

import pytest
import torch

from lathe.compressor.compute import precision
from lathe.compressor.reconstruction import block_moments, kl_passes


@pytest.fixture
def exact_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products in float32 everywhere, and curvature of all of the text."""
    monkeypatch.setattr(precision, "has_bfloat16", lambda _device: False)
    for module in (block_moments, kl_passes):
        monkeypatch.setattr(module, "_CURVATURE_SHARE", 1)


@pytest.fixture
def bfloat16_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products in bfloat16 whatever the processor is good at."""
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: device == torch.device("cpu"))
