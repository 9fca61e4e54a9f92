"""ShortGPT drops the layers whose input and output point the same way."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from dense_reference import assert_same, dense
from torch import nn

from benchmarks.quality.baselines.shortgpt import block_influence
from benchmarks.quality.setting import Setting, baselines


def test_layers_that_turn_the_hidden_state_least_go(setting: Setting) -> None:
    model = dense(setting)
    model.model.norm = nn.Identity()
    with torch.no_grad():
        states = model.model(setting.fit, output_hidden_states=True).hidden_states
    x = [s.flatten(0, 1).double().numpy() for s in states]
    cosines = [
        (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        for a, b in itertools.pairwise(x)
    ]
    influence = np.array([1 - c.mean() for c in cosines])
    np.testing.assert_allclose(block_influence(setting), influence, rtol=1e-4)
    model = dense(setting)
    model.model.layers = nn.ModuleList(model.model.layers[i] for i in sorted(np.argsort(-influence)[:2]))
    assert_same(setting, baselines.get("shortgpt")(setting, 0.5), model)
