"""GISP: |w * gradient| normalised by block, global ranks, nested steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_baseline_llm_pruner import taylor

from benchmarks.quality.baselines import gisp
from benchmarks.quality.baselines.gisp import Trajectory, saliency, trajectory
from benchmarks.quality.setting import Setting, baselines
from benchmarks.quality.unit_table import UnitTable


@pytest.fixture(autouse=True)
def little_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gisp, "_TOKENS", 64)


def everything(setting: Setting) -> torch.Tensor:
    return torch.ones(len(UnitTable.of(setting)), dtype=torch.bool)


def without_effect(setting: Setting, layer: int, group: int, channel: int) -> Setting:
    """The setting with a KV group and a channel whose outputs are never read."""
    changed = {name: value.clone() for name, value in setting.layers[layer].items()}
    size = setting.shape.layer.heads_per_group * setting.shape.head_dim
    changed["self_attn.o_proj.weight"][:, group * size : (group + 1) * size] = 0
    changed["mlp.down_proj.weight"][:, channel] = 0
    layers = [changed if i == layer else weights for i, weights in enumerate(setting.layers)]
    return replace(setting, layers=layers, shared={})


@pytest.mark.parametrize(
    ("normalisation", "by_group", "by_channel"),
    [("code", 4 * 2 * 16 * 64, 3 * 96), ("weights", 6 * 16 * 64, 3 * 64)],
)
def test_saliency_is_transformers_gradient_times_weight_by_block(
    setting: Setting, normalisation: str, by_group: int, by_channel: int
) -> None:
    text = setting.fit[:5]
    found = saliency(setting, UnitTable.of(setting).selections(everything(setting)), text, normalisation)
    for scores, t in zip(found, taylor(setting, text), strict=True):
        groups = sum(s.reshape(4, -1).sum(1) for s in (t["q"], t["k"], t["v"], t["o"].T))
        channels = t["g"].sum(1) + t["u"].sum(1) + t["d"].sum(0)
        np.testing.assert_allclose(scores.groups, groups / by_group, rtol=1e-3)
        np.testing.assert_allclose(scores.channels, channels / by_channel, rtol=1e-3, atol=1e-9)


def test_what_has_no_effect_goes_first(setting: Setting) -> None:
    setting = without_effect(setting, 1, group=2, channel=7)
    order = Trajectory(setting, "code")._state(0).order
    table, last = UnitTable.of(setting), torch.zeros(len(order), dtype=torch.bool)
    last[order[-2:]] = True
    chosen = table.selections(~last)
    assert chosen[1].kv_heads.tolist() == [0, 1, 3]
    assert 7 not in chosen[1].channels.tolist()


def test_steps_are_nested_and_counted_whatever_is_asked_first(setting: Setting) -> None:
    keeps = (0.9, 0.72, 0.5)
    found = {k: baselines.get("gisp")(replace(setting, shared={}), k) for k in keeps}
    setting = replace(setting, shared={})
    masks = {k: Trajectory(setting, "code").down_to(k) for k in keeps}
    assert [masks[k][1] for k in keeps] == [16, 45, 80] == [found[k].facts["steps"] for k in keeps]
    assert bool((masks[0.9][0] | ~masks[0.72][0]).all())
    assert bool((masks[0.72][0] | ~masks[0.5][0]).all())
    shared = {k: baselines.get("gisp")(setting, k) for k in reversed(keeps)}
    for keep in keeps:
        assert shared[keep].logprobs(setting.heldout).equal(found[keep].logprobs(setting.heldout))
    assert found[0.5].facts["tokens_per_step"] == 64


@pytest.mark.parametrize("keep", [0.7, 0.5])
def test_held_out_text_chooses_the_normalisation(setting: Setting, keep: float) -> None:
    losses = {}
    for name in gisp.NORMALISATIONS:
        run = trajectory(setting, name)
        chosen = run.table.selections(run.down_to(keep)[0])
        layers = [setting.prune(index, part) for index, part in enumerate(chosen)]
        losses[name] = setting.loss(layers, setting.heldout)
    found = baselines.get("gisp")(setting, keep)
    assert found.facts["normalisation"] == min(losses, key=losses.__getitem__)
    assert found.candidates == 2


@pytest.mark.parametrize(("keep", "whole"), [(0.8, True), (0.2, False)])
def test_the_last_layer_is_cut_last(setting: Setting, keep: float, whole: bool) -> None:
    plan = baselines.get("gisp")(replace(setting, shared={}), keep).plan
    assert plan is not None
    assert (plan[3] == setting.shape.layer) == whole
    assert plan[0] != setting.shape.layer
