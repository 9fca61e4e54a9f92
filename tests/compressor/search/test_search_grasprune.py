"""GRASPrune: straight-through slopes against transformers, gates within the budget, a search that goes on."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from lathe.artefact.errors import UserError
from lathe.artefact.plan import Plan
from lathe.compressor.latency.table import TERMS, LatencyTable
from lathe.compressor.latency.workload import Workload
from lathe.compressor.search.method import Problem, methods
from lathe.compressor.search.methods.grasprune import Gates
from lathe.compressor.search.policy.masked_model import MaskedModel
from lathe.compressor.search.space import make_space
from support.tiny_problem import Lab

METHOD = methods.get("grasprune")
TABLE = LatencyTable(
    Workload(),
    {},
    dict(zip(TERMS, (0.4, 0.3, 0.02, 0.013, 0.02, 0.02, 0.004), strict=True)),
    [{"dense_ms": 9.0}],
    tile=32,
)


def problem(lab: Lab, directory: Path, **changes: Any) -> Problem:
    directory.mkdir(exist_ok=True)
    dense = TABLE.predict(lab.source.shape.dense_plan)
    facts = {
        "windows": lab.windows[lab.heldout],
        "fitted": lab.windows[~lab.heldout][:2],
        "evaluations": 12,
        "constraints": [TABLE.constraint(make_space(lab.source.shape), 0.65 * dense)],
    }
    return lab.problem(directory, **facts | changes)


def test_slopes_go_straight_through_masks_as_transformers_has_them(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "lathe.compressor.search.policy.masked_model.fast_products", lambda _: contextlib.nullcontext()
    )
    gates = Gates.of(problem(lab, tmp_path))
    units, mask = gates.units, gates.mask()
    mask[3], mask[4] = False, False
    model = LlamaForCausalLM.from_pretrained(lab.source.path, dtype=torch.float32)
    everything = np.ones(1 + units.most, dtype=bool)
    factors, owners = [], []
    for position, row in enumerate(mask):
        block = model.model.layers[position // 2]
        output = block.mlp.down_proj if position % 2 else block.self_attn.o_proj
        kept = torch.zeros(output.in_features)
        kept[units.columns(position, row, 16)] = 1
        factors.append(kept.requires_grad_())
        output.register_forward_pre_hook(lambda _, args, kept=kept: (args[0] * kept,))
        owners.append(units.columns(position, everything, 16).view(len(units.blocks[position].items), -1))
    batch = gates.model.batches[0]
    expected = model(batch, labels=batch).loss
    expected.backward()
    loss, slopes = gates.model.slopes((mask, 0))
    assert loss == pytest.approx(float(expected.detach()), rel=1e-4)
    assert not slopes[[3, 4]].any()
    assert not slopes[:, 0].any()
    for position, (kept, columns) in enumerate(zip(factors, owners, strict=True)):
        if position in (3, 4):
            continue
        size, grad = units.blocks[position].size, kept.grad
        assert grad is not None
        own = [float(grad[part.flatten()].sum()) for part in columns.split(size)]
        np.testing.assert_allclose(slopes[position, 1 : 1 + len(own)], own, rtol=1e-3, atol=1e-5)


def test_scores_move_as_adam_moves_them_those_of_dropped_units_too(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gates = Gates.of(problem(lab, tmp_path))
    rng = np.random.default_rng(0)
    slopes = [rng.normal(size=gates.units.exist.shape) * gates.units.exist for _ in range(4)]
    scores = torch.from_numpy(gates.state[0].copy()).requires_grad_()
    adam = torch.optim.AdamW([scores], 0.01, (0.9, 0.99), weight_decay=0.0)
    for found in slopes:
        adam.zero_grad()
        (torch.sigmoid(scores / 1.5) * torch.from_numpy(found[:, 1:])).sum().backward()
        adam.step()
    given = iter(slopes)
    monkeypatch.setattr(MaskedModel, "slopes", lambda *_: (0.0, next(given)))
    dropped = ~gates.mask()[:, 1:] & gates.units.exist[:, 1:]
    before = gates.state[0].copy()
    for number in range(4):
        gates.step(number)
    np.testing.assert_allclose(gates.state[0], scores.detach().numpy(), rtol=1e-6, atol=1e-9)
    assert (gates.state[0] != before)[dropped].all()


def test_gates_are_projected_by_rank_and_a_block_keeps_its_best_unit(lab: Lab, tmp_path: Path) -> None:
    task = problem(lab, tmp_path)
    gates = Gates.of(task)
    assert task.allows(gates.units.subnet(gates.mask())[0])
    counts = gates.mask()[:, 1:].sum(1) / gates.units.exist[:, 1:].sum(1)
    assert counts.max() - counts.min() < 0.6, "the first mask is even"
    gates.state[0] = np.random.default_rng(5).normal(size=gates.state[0].shape)
    gates.state[0, 0] -= 9.0
    mask = gates.mask()
    plan, _ = gates.units.subnet(mask)
    assert task.allows(plan)
    best = np.where(gates.units.exist[:, 1:], gates.state[0], -np.inf).argmax(1)
    assert mask[np.arange(len(mask)), 1 + best].all()
    assert mask[0, 1:].sum() == 1


def rows(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "trace.jsonl").read_text().splitlines()]


def test_the_best_mask_on_held_out_text_wins_within_all_budgets(lab: Lab, tmp_path: Path) -> None:
    both = [*problem(lab, tmp_path).constraints, lab.keep(0.6)]
    found = METHOD.search(problem(lab, tmp_path, constraints=both))
    heldout = rows(tmp_path)
    assert [row["step"] for row in heldout] == [0, 10, 12]
    assert found.fitness == min(row["value"] for row in heldout)
    assert all(c.allows(found.plan) for c in both)
    assert Plan(tuple(s.shape for s in found.selections)) == found.plan


def test_gates_lessen_the_loss_in_what_they_are_trained_on(lab: Lab, tmp_path: Path) -> None:
    gates = Gates.of(problem(lab, tmp_path))
    first = gates.model.slopes((gates.mask(), 0))[0]
    for number in range(20):
        gates.step(number)
    assert gates.model.slopes((gates.mask(), 0))[0] < first


def test_a_search_that_was_killed_goes_on_and_a_search_without_gain_stops(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = METHOD.search(problem(lab, tmp_path / "whole"))
    (tmp_path / "torn").mkdir()
    lines = (tmp_path / "whole" / "trace.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "torn" / "trace.jsonl").write_text("".join(lines[:2]) + lines[2][:20])
    counted, slopes = [], MaskedModel.slopes
    monkeypatch.setattr(MaskedModel, "slopes", lambda own, asked: counted.append(1) or slopes(own, asked))
    again = METHOD.search(problem(lab, tmp_path / "torn"))
    assert len(counted) == 12 - 10
    states = [[row["state"] for row in rows(tmp_path / name)] for name in ("whole", "torn")]
    assert states[0] == states[1]
    assert (again.plan, again.fitness) == (whole.plan, whole.fitness)
    for a, b in zip(again.selections, whole.selections, strict=True):
        assert a.channels.equal(b.channels)
        assert a.query_heads.equal(b.query_heads)
    METHOD.search(problem(lab, tmp_path / "seed", evaluations=1, seed=3, fitted=lab.windows[:8]))
    METHOD.search(problem(lab, tmp_path / "zero", evaluations=1, fitted=lab.windows[:8]))
    assert rows(tmp_path / "seed")[1]["state"] != rows(tmp_path / "zero")[1]["state"]
    monkeypatch.setattr(MaskedModel, "slopes", lambda own, _: (0.0, np.zeros(own._units.exist.shape)))
    METHOD.search(problem(lab, tmp_path / "still", evaluations=500))
    assert rows(tmp_path / "still")[-1]["step"] == 50


def test_a_budget_that_needs_no_pruning_leaves_the_dense_model(lab: Lab, tmp_path: Path) -> None:
    roomy = TABLE.constraint(make_space(lab.source.shape), 1e3)
    found = METHOD.search(problem(lab, tmp_path, constraints=[roomy]))
    assert found.plan == lab.source.shape.dense_plan
    assert found.selections[0].shape == lab.source.shape.layer


def test_experts_are_refused(lab: Lab) -> None:
    with pytest.raises(UserError, match="--method grasprune is not for mixtures of experts"):
        METHOD.check(replace(lab.source.shape, experts=4))
