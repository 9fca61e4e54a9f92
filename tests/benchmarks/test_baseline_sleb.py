"""SLEB drops, one by one, the layer without which the rest predicts the calibration text best."""

from __future__ import annotations

import pytest
import torch
from dense_reference import assert_same, dense
from torch import nn
from transformers import LlamaForCausalLM

from benchmarks.quality.baselines.sleb import losses_without_each
from benchmarks.quality.setting import Setting, baselines


def loss_of(setting: Setting, model: LlamaForCausalLM, layers: list[nn.Module]) -> float:
    model.model.layers = nn.ModuleList(layers)
    with torch.no_grad():
        logits = model(setting.fit, use_cache=False).logits[:, :-1]
    return float(nn.functional.cross_entropy(logits.flatten(0, 1), setting.fit[:, 1:].flatten()))


def test_the_least_missed_layer_goes_and_all_are_evaluated_again(setting: Setting) -> None:
    model, alive = dense(setting), [0, 1, 2, 3]
    blocks = list(model.model.layers)
    for _ in range(2):
        losses = [loss_of(setting, model, [blocks[i] for i in alive if i != gone]) for gone in alive]
        assert losses_without_each(setting, alive).tolist() == pytest.approx(losses, rel=1e-5)
        del alive[losses.index(min(losses))]
    subnet = baselines.get("sleb")(setting, 0.5)
    assert subnet.candidates == 4 + 3
    model.model.layers = nn.ModuleList(blocks[i] for i in alive)
    assert_same(setting, subnet, model)
