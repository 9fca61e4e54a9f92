"""GRASPrune: projection onto the budget, straight-through gradients, scales that are folded in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_setting import EVERY_KIND, make_setting

from benchmarks.quality.baselines import grasprune
from benchmarks.quality.setting import Setting, baselines
from benchmarks.quality.unit_table import UnitTable


def test_units_are_taken_by_score_while_they_fit_and_blocks_keep_their_best(setting: Setting) -> None:
    table = UnitTable.of(setting)
    scores = torch.randn(len(table), generator=torch.Generator().manual_seed(1))
    kept = grasprune.project(setting, table, scores, 0.5)
    used = table.fixed + int(table.costs[kept].sum())
    assert 0.5 * setting.dense_parameters - 192 < used <= 0.5 * setting.dense_parameters
    best = [int(block.argmax()) for block in table.blocks(scores)]
    assert all(bool(block[b]) for block, b in zip(table.blocks(kept), best, strict=True))
    channels = table.costs == 192
    left, gone = (scores[part & channels] for part in (kept, ~kept))
    assert float((left[:, None] > gone).float().mean()) > 0.98, "a few fill up what a group did not fit"


def test_gradients_go_straight_through_the_mask(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """One plain step: scores move by the rate times dL/dz times the slope of p, for what is cut too."""
    setting = replace(setting, fit=setting.fit[:1])
    table, dense = UnitTable.of(setting), setting.layers
    monkeypatch.setattr(grasprune, "_EPOCHS", 1)
    monkeypatch.setattr(torch.optim, "AdamW", lambda p, *_, **__: torch.optim.SGD(p, 1.0))
    scores, steps = grasprune.train_gates(setting, table, 0.6)
    assert steps == 1
    mask = grasprune.project(setting, table, torch.zeros(len(table)), 0.6).double()

    def loss(gates: torch.Tensor) -> float:
        blocks, layers = table.blocks(gates.float()), []
        for weights, groups, channels in zip(dense, blocks[::2], blocks[1::2], strict=True):
            rows, changed = groups.repeat_interleave(16)[:, None], dict(weights)
            for name in ("k", "v"):
                changed[f"self_attn.{name}_proj.weight"] = weights[f"self_attn.{name}_proj.weight"] * rows
            changed["mlp.down_proj.weight"] = weights["mlp.down_proj.weight"] * channels
            layers.append(changed)
        return setting.loss(layers, setting.fit)

    slope = 0.25 / 1.5
    for unit in (0, 1, 2, 3, 10, 50, 105, 203):
        plus, minus = mask.clone(), mask.clone()
        plus[unit] += 0.05
        minus[unit] -= 0.05
        expected = -slope * (loss(plus) - loss(minus)) / 0.1
        assert float(scores[unit]) == pytest.approx(expected, rel=0.05, abs=3e-5)


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_scales_are_folded_in_and_mend_the_fit(tmp_path: Path, kind: str) -> None:
    setting = make_setting(tmp_path, **EVERY_KIND[kind])
    pruned = list(setting.layers)
    scaled, steps = grasprune.calibrated(setting, pruned)
    assert steps == len(setting.fit)
    assert setting.loss(scaled, setting.fit) < setting.loss(pruned, setting.fit)
    assert {n for n in scaled[0] if not torch.equal(scaled[0][n], pruned[0][n])} >= {
        "self_attn.v_proj.weight",
        "mlp.down_proj.weight",
    }


def test_training_is_said_and_counted(setting: Setting) -> None:
    found = baselines.get("grasprune")(setting, 0.6)
    windows = len(setting.fit)
    assert found.facts == {
        "trained": "gates and scales",
        "gate_steps": 4 * windows,
        "scale_steps": windows,
    }
