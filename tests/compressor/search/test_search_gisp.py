"""GISP: saliency against transformers' gradients, nested steps, budgets, and a search that goes on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
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
from lathe.compressor.model.pruning import ImportanceRanking, Selection, select
from lathe.compressor.search.method import Problem, SearchResult, methods
from lathe.compressor.search.removal.saliency import PrunedModel, Saliency
from lathe.compressor.search.removal.steps import Steps, plan_of
from lathe.compressor.search.space import Constraint, Space, make_space
from support.tiny_llama import DENSE, KV_HEADS, LAYERS, plan
from support.tiny_problem import Lab

METHOD = methods.get("gisp")
TABLE = LatencyTable(
    Workload(),
    {},
    dict(zip(TERMS, (0.4, 0.3, 0.05, 0.013, 0.02, 0.05, 0.004), strict=True)),
    [{"dense_ms": 9.0}],
)
IN_ORDER = ImportanceRanking(torch.arange(4), torch.arange(8).view(4, 2), torch.arange(96))
EVERYTHING = select(IN_ORDER, plan(DENSE)[0])


def milliseconds(lab: Lab, share: float) -> Constraint:
    dense = TABLE.predict(lab.source.shape.dense_plan)
    return TABLE.constraint(make_space(lab.source.shape), share * dense)


def problem(lab: Lab, directory: Path, share: float = 0.65, **changes: Any) -> Problem:
    directory.mkdir(exist_ok=True)
    facts = {
        "windows": lab.windows[lab.heldout],
        "fitted": lab.windows[~lab.heldout][:2],
        "evaluations": 14,
        "constraints": [milliseconds(lab, share)],
    }
    return lab.problem(directory, **facts | changes)


def rows(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "trace.jsonl").read_text().splitlines()]


def contains(wide: Sequence[Selection], narrow: Sequence[Selection]) -> bool:
    return all(
        bool(torch.isin(getattr(b, units), getattr(a, units)).all())
        for a, b in zip(wide, narrow, strict=True)
        for units in ("kv_heads", "query_heads", "channels")
    )


def same(a: SearchResult, b: SearchResult) -> bool:
    return (a.plan, a.fitness) == (b.plan, b.fitness) and contains(a.selections, b.selections)


def test_saliency_is_transformers_gradient_times_weight_of_what_is_left(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "lathe.compressor.search.removal.saliency.fast_products", lambda _: contextlib.nullcontext()
    )
    kept = [EVERYTHING] * LAYERS
    kept[1] = Selection(torch.tensor([0, 3]), torch.tensor([1, 6]), torch.arange(5, 96, 3))
    kept[2] = replace(EVERYTHING, kv_heads=torch.tensor([]).long(), query_heads=torch.tensor([]).long())
    windows = lab.windows[:3]
    model = LlamaForCausalLM.from_pretrained(lab.source.path, dtype=torch.float32)
    heads = torch.arange(8 * 16) // 16
    with torch.no_grad():
        for layer, selection in zip(model.model.layers, kept, strict=True):
            layer.self_attn.o_proj.weight *= torch.isin(heads, selection.query_heads)
            layer.mlp.down_proj.weight *= torch.isin(torch.arange(96), selection.channels)
    model(windows, labels=windows).loss.backward()
    loss, found = PrunedModel(problem(lab, tmp_path)).saliency(kept, windows)
    assert loss == pytest.approx(float(model(windows, labels=windows).loss.detach()), rel=1e-4)
    for layer, selection, saliency in zip(model.model.layers, kept, found, strict=True):
        owned = {
            name.split(".")[-2][0]: (p * p.grad).detach().abs().double()
            for name, p in layer.named_parameters()
            if "proj" in name
        }
        by_query, by_group, channels = (torch.zeros(n, dtype=torch.float64) for n in (8, 4, 96))
        queries = (owned["q"].sum(1) + owned["o"].sum(0)).view(8, -1).sum(1)
        groups = (owned["k"].sum(1) + owned["v"].sum(1)).view(4, -1).sum(1)
        rest = owned["g"].sum(1) + owned["u"].sum(1) + owned["d"].sum(0)
        by_query[selection.query_heads] = queries[selection.query_heads]
        by_group[selection.kv_heads] = groups[selection.kv_heads]
        channels[selection.channels] = rest[selection.channels]
        torch.testing.assert_close(saliency.queries, by_query, rtol=1e-3, atol=1e-7)
        torch.testing.assert_close(saliency.groups, by_group, rtol=1e-3, atol=1e-7)
        torch.testing.assert_close(saliency.channels, channels, rtol=1e-3, atol=1e-7)


def steps_of(space: Space, constraints: Sequence[Constraint], spared: Sequence[int] = ()) -> Steps:
    return Steps(space, constraints, per_group=2, spared=frozenset(spared))


def drawn(seed: int) -> list[Saliency]:
    generator = torch.Generator().manual_seed(seed)
    return [
        Saliency(*(torch.rand(n, generator=generator, dtype=torch.float64) for n in (8, 4, 96)))
        for _ in range(LAYERS)
    ]


def test_the_cheapest_loss_goes_first_and_units_come_back_where_they_fit(lab: Lab) -> None:
    space, kept = make_space(lab.source.shape), [EVERYTHING] * LAYERS
    limit = milliseconds(lab, 0.8)
    steps, saliency = steps_of(space, [limit]), drawn(0)
    saliency[2].channels[:] *= 1e-3
    removed = steps.down(kept, saliency, np.array([limit.limit]))
    assert removed[0][0] == 5
    first = steps.without(kept, removed[:1])[2].channels
    least = saliency[2].channels.argsort()[: 96 - len(first)]
    assert not torch.isin(least, first).any()
    final = steps.refilled(kept, [*removed, (1, [4, 7])])
    left = steps.without(kept, final)
    assert (1, [4, 7]) not in final
    assert limit.allows(plan_of(left))


def test_steps_take_query_heads_of_all_groups_alike_and_leave_some_attention(lab: Lab) -> None:
    space, kept, saliency = make_space(lab.source.shape), [EVERYTHING] * LAYERS, drawn(1)
    for layer in saliency:
        layer.channels[:] = 1e3
        layer.groups[:] += 1
    budget = replace(milliseconds(lab, 1.0), ffn=dict.fromkeys(space.ffn, 0.0))
    steps = steps_of(space, [budget])
    removed = steps.down(kept, saliency, steps.costs(kept) - 0.05)
    left = steps.without(kept, removed)
    (layer,) = {position // 2 for position, _ in removed}
    assert left[layer].shape.heads == (KV_HEADS, KV_HEADS)
    of_group = saliency[layer].queries.view(4, 2)
    assert left[layer].query_heads.tolist() == (of_group.argmax(1) + 2 * torch.arange(4)).tolist()
    fewest = budget.cost(plan(*[(1, 1, 96), *[(0, 0, 96)] * 3]))
    left = steps.without(kept, steps.down(kept, saliency, np.array([fewest])))
    assert sorted(s.shape.heads for s in left) == [(0, 0)] * 3 + [(1, 1)]
    with pytest.raises(UserError, match="no plan with an attention block"):
        steps.down(kept, saliency, np.array([fewest - 0.02]))


def test_spared_layers_are_cut_when_nothing_else_is_left(lab: Lab) -> None:
    space, kept = make_space(lab.source.shape), [EVERYTHING] * LAYERS
    budget = milliseconds(lab, 0.5)
    for share, untouched in ((0.75, True), (0.3, False)):
        steps = steps_of(space, [budget], spared=(0, 3))
        target = np.array([milliseconds(lab, share).limit])
        left = plan_of(steps.without(kept, steps.down(kept, drawn(2), target)))
        assert ({left[0], left[3]} == set(plan(DENSE))) == untouched


def test_every_step_is_nested_in_the_one_before_and_the_last_keeps_all_budgets(
    lab: Lab, tmp_path: Path
) -> None:
    both = [milliseconds(lab, 0.7), lab.keep(0.55)]
    task = problem(lab, tmp_path, constraints=both)
    found = METHOD.search(task)
    assert all(c.allows(found.plan) for c in both)
    assert found.plan == plan_of(found.selections)
    removed = [row["removed"] for row in rows(tmp_path) if "removed" in row]
    steps, kept = steps_of(task.space, both), [EVERYTHING] * LAYERS
    for number, step in enumerate(removed, 1):
        left = steps.without(kept, [(at, units) for at, units in step])
        assert contains(kept, left)
        for c in both:
            share = 1 - 0.7 / 14 * number
            assert c.cost(plan_of(left)) <= max(c.limit, share * c.cost(plan_of([EVERYTHING] * LAYERS)))
        kept = left
    assert contains(found.selections, kept)


def test_a_tighter_budget_goes_on_from_the_steps_of_a_looser_one(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loose = METHOD.search(problem(lab, tmp_path / "one", 0.8))
    alone = METHOD.search(problem(lab, tmp_path / "two", 0.6))
    counted, saliency = [], PrunedModel.saliency
    monkeypatch.setattr(PrunedModel, "saliency", lambda *asked: counted.append(1) or saliency(*asked))
    after = METHOD.search(problem(lab, tmp_path / "one", 0.6))
    assert same(after, alone)
    assert len(counted) == 8 - 3
    assert Plan(tuple(s.shape for s in loose.selections)) == loose.plan


def test_a_search_that_was_killed_finds_the_same_and_other_seeds_read_other_text(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = METHOD.search(problem(lab, tmp_path / "whole"))
    (tmp_path / "torn").mkdir()
    lines = (tmp_path / "whole" / "trace.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "torn" / "trace.jsonl").write_text("".join(lines[:5]) + lines[5][:20])
    counted, saliency = [], PrunedModel.saliency
    monkeypatch.setattr(PrunedModel, "saliency", lambda *asked: counted.append(1) or saliency(*asked))
    assert same(METHOD.search(problem(lab, tmp_path / "torn")), whole)
    assert len(counted) == len(lines) - 1 - 5
    fitted = lab.windows[~lab.heldout]
    for seed in (0, 1):
        METHOD.search(problem(lab, tmp_path / str(seed), 0.96, seed=seed, fitted=fitted))
    assert rows(tmp_path / "0")[0]["value"] != rows(tmp_path / "1")[0]["value"]


def test_a_budget_that_needs_no_pruning_leaves_the_dense_model(lab: Lab, tmp_path: Path) -> None:
    found = METHOD.search(problem(lab, tmp_path, 1.1))
    assert found.plan == lab.source.shape.dense_plan
    assert found.fitness == pytest.approx(0, abs=1e-6)
    assert len(rows(tmp_path)) == 1


def test_experts_are_refused(lab: Lab) -> None:
    with pytest.raises(UserError, match="--method gisp is not for mixtures of experts"):
        METHOD.check(replace(lab.source.shape, experts=4))
