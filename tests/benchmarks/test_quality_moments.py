"""Moments of what the output projections read, against numpy on transformers' activations."""

from __future__ import annotations

import numpy as np
import torch
from dense_reference import dense, read

from benchmarks.quality.layer_step import step
from benchmarks.quality.moments import layer_moments
from benchmarks.quality.setting import Setting


def test_moments_are_those_of_every_calibration_token(setting: Setting) -> None:
    model, hidden = dense(setting), setting.embed(setting.fit)
    for index, weights in enumerate(setting.layers):
        found, after = layer_moments(setting, index, hidden)
        for moments, x in zip((found.attention, found.ffn), read(model, index, setting.fit), strict=True):
            assert moments.count == setting.fit.numel() == len(x)
            np.testing.assert_allclose(moments.mean, x.mean(0), atol=1e-5)
            np.testing.assert_allclose(moments.variance, x.var(0, ddof=1), rtol=2e-4)
            np.testing.assert_allclose(moments.norm, np.linalg.norm(x, axis=0), rtol=2e-4)
        hidden = step(setting, index, weights, hidden)
        assert torch.equal(after, hidden)
