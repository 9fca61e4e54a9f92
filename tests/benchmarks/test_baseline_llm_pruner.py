"""LLM-Pruner's units go by |w * dL/dw|; layers at both ends stay whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from dense_reference import assert_same, dense, top, zero

from benchmarks.quality.baselines.llm_pruner import layout, scores
from benchmarks.quality.setting import Setting, baselines


def taylor(setting: Setting, samples: torch.Tensor) -> list[dict[str, np.ndarray]]:
    """|w * gradient| of transformers' own loss, by layer and projection."""
    model = dense(setting)
    model(samples, labels=samples).loss.backward()
    return [
        {
            name.split(".")[-2][0]: (p * p.grad).detach().abs().double().numpy()
            for name, p in layer.named_parameters()
            if "proj" in name
        }
        for layer in model.model.layers
    ]


def test_the_units_with_the_largest_first_order_effect_stay(setting: Setting) -> None:
    setting = replace(setting, fit=setting.fit[:10])
    first, last, widths = layout(setting, 0.6)
    model, groups = dense(setting), setting.shape.layer.kv_heads
    assert (first, last) == (1, 0)
    for index, t in enumerate(taylor(setting, setting.fit)):
        heads = sum(s.reshape(groups, -1).sum(1) for s in (t["q"], t["k"], t["v"], t["o"].T))
        channels = t["g"].sum(1) + t["u"].sum(1) + t["d"].sum(0)
        found = scores(setting)[index]
        np.testing.assert_allclose(found.groups, heads, rtol=1e-3)
        np.testing.assert_allclose(found.channels, channels, rtol=1e-3, atol=1e-7)
        if index >= first:
            zero(model, setting, index, top(heads, widths.kv_heads), top(channels, widths.ffn))
    assert_same(setting, baselines.get("llm-pruner")(setting, 0.6), model)


def test_ten_samples_are_drawn_by_the_seed(setting: Setting) -> None:
    first, same, other = (scores(replace(setting, seed=seed))[0].channels for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.allclose(first, other)


@pytest.mark.parametrize(("keep", "whole"), [(0.9, 1), (0.5, 1), (0.37, 1), (0.36, 0)])
def test_whole_layers_that_the_budget_cannot_pay_for_are_cut_too(
    setting: Setting, keep: float, whole: int
) -> None:
    first, last, widths = layout(setting, keep)
    assert (first, last) == (whole, 0)
    assert widths.kv_heads
    assert widths.ffn
