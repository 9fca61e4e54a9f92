"""FLAP's scores, threshold and compensation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from dense_reference import assert_same, dense, read, top, zero
from tiny_setting import KINDS, make_setting

from benchmarks.quality.baselines.flap import (
    METRICS,
    compensated,
    one_threshold,
    standardised,
    structures,
)
from benchmarks.quality.moments import LayerMoments, layer_moments
from benchmarks.quality.setting import Setting, baselines
from benchmarks.quality.units import UnitScores


def reference_scores(setting: Setting, metric: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Groups and channels of every layer, by numpy, from what transformers' projections read."""

    def scores(x: np.ndarray, projection: torch.nn.Linear) -> np.ndarray:
        weight = projection.weight.detach().double().numpy()
        if metric == "WIFV":
            return x.var(0, ddof=1) * np.square(weight).sum(0)
        return (np.abs(weight) * np.linalg.norm(x, axis=0)).mean(0)

    model, found = dense(setting), []
    for index, block in enumerate(model.model.layers):
        attention, ffn = read(model, index, setting.fit)
        raw = scores(attention, block.self_attn.o_proj) ** 2, scores(ffn, block.mlp.down_proj)
        heads, channels = ((s - s.mean()) / s.std(ddof=1) for s in raw)
        found.append((heads.reshape(setting.shape.layer.kv_heads, -1).mean(1), channels))
    return found


def dense_moments(setting: Setting) -> list[LayerMoments]:
    hidden, moments = setting.embed(setting.fit), []
    for index in range(len(setting.layers)):
        found, hidden = layer_moments(setting, index, hidden)
        moments.append(found)
    return moments


@pytest.mark.parametrize("metric", METRICS)
def test_scores_are_standardised_in_their_module(setting: Setting, metric: str) -> None:
    expected = reference_scores(setting, metric)
    for weights, moments, pair in zip(setting.layers, dense_moments(setting), expected, strict=True):
        found = standardised(setting, metric, weights, moments)
        np.testing.assert_allclose(found.groups, pair[0], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(found.channels, pair[1], rtol=1e-3, atol=1e-4)


def test_one_threshold_over_layers_and_modules_weighs_units_by_their_parameters(setting: Setting) -> None:
    """A group costs 6 * 16 * 64 = 6144 parameters, a channel 3 * 64 = 192, a norm and a bias 64 each."""
    low = torch.full((96,), -2.0)
    first = UnitScores(torch.tensor([3.0, 1.0, -1.0, -3.0]), low.index_fill(0, torch.tensor([5, 7]), 2.0))
    second = UnitScores(torch.tensor([-3.0, -3.0, -2.5, -3.0]), low.index_fill(0, torch.tensor([9]), 0.5))
    best_of_blocks = 2 * (6144 + 128) + 2 * (192 + 128)
    above = 192 + 6144
    kept = one_threshold(setting.shape, [first, second], best_of_blocks + above + 6143)
    assert [s.kv_heads.tolist() for s in kept] == [[0, 1], [2]], "the group at -1 is next and too dear"
    assert [s.query_heads.tolist() for s in kept] == [[0, 1, 2, 3], [4, 5]]
    assert {5, 7} <= set(kept[0].channels.tolist())
    assert 9 in kept[1].channels.tolist()
    assert sum(len(s.channels) for s in kept) == 3 + 6143 // 192, "cheaper units use up the rest"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_omitted_is_replaced_by_its_mean(tmp_path: Path, kind: str) -> None:
    setting = make_setting(tmp_path, **KINDS[kind])
    subnet, model = baselines.get("flap")(setting, 0.5), dense(setting)
    inputs = [read(model, index, setting.fit) for index in range(len(setting.layers))]
    for index, (block, widths) in enumerate(zip(model.model.layers, subnet.plan, strict=True)):
        groups, channels = reference_scores(setting, subnet.facts["metric"])[index]
        dense_block = dense(setting).model.layers[index]
        zero(model, setting, index, top(groups, widths.kv_heads), top(channels, widths.ffn))
        for name, x in zip(("self_attn.o_proj", "mlp.down_proj"), inputs[index], strict=True):
            projection, whole = block.get_submodule(name), dense_block.get_submodule(name)
            lost = (whole.weight - projection.weight).detach().double().numpy() @ x.mean(0)
            bias = 0 if whole.bias is None else whole.bias
            projection.bias = torch.nn.Parameter(torch.from_numpy(lost).float() + bias)
    assert_same(setting, subnet, model)


@pytest.mark.parametrize("keep", [0.8, 0.5])
def test_metric_and_structure_are_the_best_on_heldout_text(setting: Setting, keep: float) -> None:
    moments = dense_moments(setting)
    losses = {
        name: setting.loss(compensated(setting, moments, kept), setting.heldout)
        for name, kept in structures(setting, moments, keep).items()
    }
    subnet, (metric, structure) = baselines.get("flap")(setting, keep), min(losses, key=losses.get)
    assert (subnet.facts, subnet.candidates) == ({"metric": metric, "structure": structure}, 4)
    assert (len(set(subnet.plan)) == 1) == (structure == "UL-UM")
