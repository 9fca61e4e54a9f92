"""Reconstructions against plain least squares, and errors that they must never make worse."""

from __future__ import annotations

import math

import pytest
import torch

from lathe.artefact.errors import UserError
from lathe.artefact.plan import Plan
from lathe.compressor.compute.precision import has_bfloat16
from lathe.compressor.compute.workers import SHARDS
from lathe.compressor.importance import importance_methods
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.pruning import rows, select
from lathe.compressor.reconstruction import (
    ProjectionPruner,
    best_damping,
    choose_damping,
    damped,
    random_projection,
    reconstruct,
    reconstruction_error,
)
from lathe.compressor.reconstruction.admm import admm
from lathe.compressor.reconstruction.block_contexts import BlockContexts
from lathe.compressor.reconstruction.block_moments import BlockPasses
from lathe.compressor.reconstruction.registry import Finished, ReconstructionTask, reconstructions
from lathe.compressor.reconstruction.residual_streams import BlockPosition, ResidualStreams, SequentialPass
from lathe.compressor.reconstruction.sequential import DAMPINGS, reconstruct_block
from support.tiny_llama import HEAD_DIM, PLANS
from support.tiny_problem import Lab

KEPT = torch.tensor([0, 3, 4, 8, 11])


def problem(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A projection [7, 12] and correlated inputs [300, 12]."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    x = torch.randn(300, 12, generator=generator, dtype=torch.float64) @ mix
    return torch.randn(7, 12, generator=generator), x


def test_the_closed_form_is_least_squares() -> None:
    weight, x = problem()
    expected = torch.linalg.lstsq(x[:, KEPT], x @ weight.double().T).solution.T
    found = reconstruct(weight, damped(x.T @ x / len(x), 1e-12), KEPT)
    torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=1e-5)


def test_damping_draws_towards_the_original_weights() -> None:
    weight, x = problem()
    found = reconstruct(weight, damped(x.T @ x / len(x), 1e9), KEPT)
    torch.testing.assert_close(found, weight[:, KEPT], atol=1e-5, rtol=1e-5)


def test_many_rounds_of_admm_reach_the_closed_form() -> None:
    weight, x = problem()
    gram = x.T @ x / len(x)
    target = reconstruct(weight, damped(gram, 1e-12), KEPT)
    few, many = (admm(weight, gram, KEPT, iterations=n) for n in (3, 5000))
    assert (many - target).abs().max() < 1e-3 < (few - target).abs().max()


def test_the_error_is_that_of_the_outputs() -> None:
    weight, x = problem()
    kept = weight[:, KEPT] * 1.5
    direct = (x[:, KEPT] @ kept.double().T - x @ weight.double().T).square().sum() / len(x)
    assert reconstruction_error(weight, kept, x.T @ x / len(x), KEPT) == pytest.approx(float(direct))


def test_a_damping_that_rounding_outweighs_is_not_chosen() -> None:
    weight, x = problem()
    gram = x.T @ x / len(x)
    values, vectors = torch.linalg.eigh(gram)
    values[:4] = -1e-4 * gram.diagonal().mean()
    fit = vectors @ values.diag() @ vectors.T
    assert choose_damping(weight, fit, gram, [KEPT])[0] in (1e-3, 1e-2, 1e-1)


@pytest.mark.parametrize("damping", [1e-5, 1e-2, 1.0])
def test_reconstruction_never_errs_more_than_plain_pruning(damping: float) -> None:
    for seed in range(10):
        weight, x = problem(seed)
        gram = x.T @ x / len(x)
        solved = reconstruct(weight, damped(gram, damping), KEPT)
        pruned = reconstruction_error(weight, weight[:, KEPT], gram, KEPT)
        assert reconstruction_error(weight, solved, gram, KEPT) < pruned


def test_the_damping_is_the_one_that_errs_least_on_heldout_text() -> None:
    weight, x = problem()
    few, fresh = x[:13].T @ x[:13] / 13, x[200:].T @ x[200:] / 100
    noise = torch.rand(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noisy = few + torch.diag(noise * few.diagonal().mean())
    chosen, pruner = choose_damping(weight, noisy, fresh, [KEPT])

    def error(damping: float) -> float:
        return reconstruction_error(weight, reconstruct(weight, damped(noisy, damping), KEPT), fresh, KEPT)

    assert error(chosen) == min(error(d) for d in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1))
    assert choose_damping(weight, fresh, fresh, [KEPT])[0] == 1e-5
    torch.testing.assert_close(pruner.solve(KEPT), reconstruct(weight.double(), damped(noisy, chosen), KEPT))


def test_sets_that_lead_a_ranking_share_a_factor_and_are_solved_as_each_by_itself() -> None:
    weight, x = problem()
    gram = damped(x.T @ x / len(x), 1e-3)
    ranked = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    shared, alone = ProjectionPruner(weight, gram, ranked), ProjectionPruner(weight, gram)
    assert shared.definite
    for width in (0, 1, 5, 12):
        kept = ranked[:width].sort().values
        torch.testing.assert_close(shared.solve(kept), alone.solve(kept), atol=1e-6, rtol=1e-5)
        assert shared.error(kept) == pytest.approx(alone.error(kept), abs=1e-9)
    with pytest.raises(ValueError, match="lead"):
        shared.solve(ranked[1:3])


def test_the_error_of_a_pruner_is_that_of_its_outputs() -> None:
    weight, x = problem()
    gram = damped(x.T @ x / len(x), 1e-12)
    left = reconstruction_error(weight, reconstruct(weight, gram, KEPT), gram, KEPT)
    assert ProjectionPruner(weight, gram).error(KEPT) == pytest.approx(left, rel=1e-4)


def test_experts_of_which_nothing_is_kept_are_all_error() -> None:
    weight, x = problem()
    gram = damped(torch.stack([(part.T @ part) / len(x) for part in x.split(6, 1)]), 1e-3)
    pruner = ProjectionPruner(weight, gram, torch.tensor([[2, 0, 1, 3, 5, 4], [7, 6, 9, 8, 10, 11]]))
    kept = torch.tensor([6, 7])
    first, second = (ProjectionPruner(w, g) for w, g in zip(weight.split(6, 1), gram, strict=True))
    torch.testing.assert_close(pruner.solve(kept), second.solve(kept - 6), atol=1e-6, rtol=1e-5)
    nothing = torch.empty(0, dtype=torch.long)
    assert pruner.error(kept) == pytest.approx(first.error(nothing) + second.error(kept - 6))


def test_a_random_projection_has_about_the_squares_of_all_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(600, 40, generator=generator) * torch.rand(40, generator=generator)
    few = random_projection(weight)
    assert len(few) < 600
    direction = torch.randn(40, generator=generator).double()
    assert float((few @ direction).square().sum()) == pytest.approx(
        float((weight.double() @ direction).square().sum()), rel=0.4
    )
    assert torch.equal(random_projection(weight[:5]), weight[:5].double())


def finish(lab: Lab, name: str, plan: Plan, bfloat16: bool = False) -> list[Finished]:
    kept = [
        select(importance_methods.get("elimination")(lab.source.shape, w, s), layer)
        for w, s, layer in zip(lab.layers, lab.statistics, plan, strict=True)
    ]
    dampings = [(1e-3, 1e-3)] * len(plan)
    job = ReconstructionTask(
        lab.source.shape,
        lab.model,
        kept,
        lab.statistics,
        dampings,
        lab.windows,
        lab.heldout,
        bfloat16=bfloat16,
    )
    layer, done = reconstructions.get(name)(job), []
    for index in range(len(plan)):
        done.append(layer(index, done.__getitem__))
    return done


@torch.no_grad()
def final_error(lab: Lab, layers: list[Finished]) -> float:
    """Mean squared distance of the last hidden states from the dense model's, on the fitted text."""

    def states(weights: list[Weights]) -> torch.Tensor:
        hidden = lab.embedded[~lab.heldout]
        for layer in weights:
            hidden = lab.runner.ffn(layer, lab.runner.attention(layer, hidden))
        return hidden

    return float((states(list(layers)) - states(lab.layers)).square().mean())


HALF = Plan((PLANS["groups"][3],) * 4).replace(3, PLANS["ffn"][1])


def test_each_reconstruction_errs_less_than_the_one_before(lab: Lab) -> None:
    names = ("none", "admm", "closed-form", "sequential")
    errors = {name: final_error(lab, finish(lab, name, HALF)) for name in names}
    assert errors["closed-form"] < 0.9 * errors["none"]
    assert errors["admm"] < errors["none"]
    assert errors["sequential"] < 0.9 * errors["closed-form"]


def test_hidden_states_of_bfloat16_products_lead_to_nearly_the_same_weights(lab: Lab) -> None:
    exact, rough = (finish(lab, "sequential", HALF, bfloat16) for bfloat16 in (False, True))
    assert final_error(lab, rough) == pytest.approx(final_error(lab, exact), rel=0.02)
    same = all(torch.equal(a[name], b[name]) for a, b in zip(exact, rough, strict=True) for name in a)
    assert same != has_bfloat16(torch.device("cpu"))
    assert all(value.dtype == torch.float32 for layer in rough for value in layer.values())


@pytest.mark.parametrize("name", ["none", "admm", "closed-form", "sequential"])
def test_a_dense_plan_stays_dense(lab: Lab, name: str) -> None:
    for done, dense in zip(finish(lab, name, PLANS["dense"]), lab.layers, strict=True):
        assert done.keys() == dense.keys()
        for part in dense:
            torch.testing.assert_close(done[part], dense[part], atol=2e-3, rtol=0)


@pytest.mark.parametrize("name", ["closed-form", "sequential"])
def test_tensors_have_the_planned_shapes_and_dropped_blocks_have_none(lab: Lab, name: str) -> None:
    plan = PLANS["mixed"]
    for done, layer in zip(finish(lab, name, plan), plan, strict=True):
        o, down = (done.get(f"{module}.weight") for module in ("self_attn.o_proj", "mlp.down_proj"))
        assert o is None if not layer.kv_heads else o.shape == (64, layer.query_heads * HEAD_DIM)
        assert down is None if not layer.ffn else down.shape == (64, layer.ffn)


def test_sequential_reconstruction_goes_on_from_finished_layers_bit_by_bit(lab: Lab) -> None:
    whole = finish(lab, "sequential", HALF)
    selections = [
        select(importance_methods.get("elimination")(lab.source.shape, w, s), layer)
        for w, s, layer in zip(lab.layers, lab.statistics, HALF, strict=True)
    ]
    job = ReconstructionTask(
        lab.source.shape,
        lab.model,
        selections,
        lab.statistics,
        [(1e-3, 1e-3)] * 4,
        lab.windows,
        lab.heldout,
    )
    resumed = reconstructions.get("sequential")(job)(2, whole.__getitem__)
    assert all(torch.equal(resumed[name], whole[2][name]) for name in whole[2])
    with pytest.raises(UserError, match="layer 0 of the reconstruction is missing"):
        reconstructions.get("sequential")(job)(2, lambda _: None)


@torch.no_grad()
def test_sequential_reconstruction_aims_at_the_dense_stream_from_the_subnets_own(lab: Lab) -> None:
    noise = torch.randn(lab.embedded.shape, generator=torch.Generator().manual_seed(0))
    subnet, after = lab.embedded + 0.3 * noise, lab.runner.ffn(lab.layers[0], lab.embedded)
    fit, start = ~lab.heldout, {k: v for k, v in lab.layers[0].items() if k[:3] in ("mlp", "pos")}
    x = lab.runner.ffn_context(start, subnet[fit]).flatten(0, 1).double()
    y = (after - subnet)[fit].flatten(0, 1).double()
    passes = BlockPasses(lab.runner, "ffn", lab.embedded, subnet, after, lab.heldout)
    block = reconstruct_block(passes.map_shards, lab.runner, "ffn", start)
    found = block["mlp.down_proj.weight"]

    def ridge(damping: float) -> torch.Tensor:
        scale = damping * (x.T @ x / len(x)).diagonal().mean()
        left = x.T @ x / len(x) + scale * torch.eye(96, dtype=torch.float64)
        return torch.linalg.solve(left, x.T @ y / len(x) + scale * start["mlp.down_proj.weight"].double().T).T

    distances = [(found - ridge(damping)).abs().max() for damping in DAMPINGS]
    assert min(distances) < 1e-4
    alone = reconstruct_block(passes.map_shards, lab.runner, "ffn", start, dampings=(0.05,))
    assert (alone["mlp.down_proj.weight"].double() - ridge(0.05)).abs().max() < 1e-4


@torch.no_grad()
@pytest.mark.parametrize(("noise", "stays"), [(0.001, True), (0.3, False)])
def test_a_projection_stays_where_another_one_gains_next_to_nothing(
    lab: Lab, noise: float, stays: bool
) -> None:
    drawn = torch.randn(lab.embedded.shape, generator=torch.Generator().manual_seed(0))
    subnet, after = lab.embedded + noise * drawn, lab.runner.ffn(lab.layers[0], lab.embedded)
    start = {k: v for k, v in lab.layers[0].items() if k[:3] in ("mlp", "pos")}
    passes = BlockPasses(lab.runner, "ffn", lab.embedded, subnet, after, lab.heldout)
    solved, kept = (
        reconstruct_block(passes.map_shards, lab.runner, "ffn", start, worthwhile=worthwhile)
        for worthwhile in (0.0, 0.01)
    )
    name = "mlp.down_proj.weight"
    assert not torch.equal(solved[name], start[name])
    assert torch.equal(kept[name], start[name] if stays else solved[name])


@pytest.mark.parametrize("bfloat16", [False, True])
def test_inputs_of_projections_that_were_measured_are_those_of_running_the_block_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, bfloat16: bool
) -> None:
    kept = finish(lab, "sequential", HALF, bfloat16)
    monkeypatch.setattr(BlockContexts, "take", lambda *_: None)
    for mine, again in zip(kept, finish(lab, "sequential", HALF, bfloat16), strict=True):
        assert all(torch.equal(mine[name], again[name]) for name in again)


def test_inputs_are_those_of_the_block_that_was_measured_last_and_of_no_other() -> None:
    block = {"mlp.up_proj.weight": torch.ones(3, 2), "mlp.down_proj.weight": torch.ones(2, 3)}
    contexts, x = BlockContexts(), torch.ones(2, 4, 3)
    for part in torch.arange(4).split(2):
        contexts.keep(block, 4, part, x)
    solved = block | {"mlp.down_proj.weight": torch.zeros(2, 3)}
    assert contexts.take("ffn", block | {"mlp.up_proj.weight": torch.zeros(3, 2)}) is None
    assert contexts.take("ffn", solved) is None  # it let go
    for part in torch.arange(4).split(2):
        contexts.keep(block, 4, part, x)
    found = contexts.take("ffn", solved)
    assert found is not None
    assert torch.equal(found[torch.arange(4)], torch.ones(4, 4, 3))


def test_streams_go_past_finished_blocks_wherever_they_begin(lab: Lab) -> None:
    text, done = SequentialPass(lab.model, lab.windows, lab.heldout), finish(lab, "closed-form", HALF)
    attention = {n: w for n, w in done[2].items() if "self_attn" in n or "input" in n}
    position = BlockPosition(2, "ffn", done.__getitem__, attention)

    def passes(streams: ResidualStreams) -> BlockPasses:
        ((found,),) = streams.block(position, lambda passes: [passes])
        return found

    resumed, walked = ResidualStreams(text, range(SHARDS)), ResidualStreams(text, range(SHARDS))
    for index in range(3):
        for kind in ("attention", "ffn")[: 1 + (index < 2)]:
            before = BlockPosition(index, kind, done.__getitem__, done[index])
            assert [*walked.block(before, lambda passes: [passes.kind])] == [[kind]]
    dense = subnet = lab.embedded
    with torch.no_grad():
        for index in range(3):
            for run in (lab.runner.attention, lab.runner.ffn)[: 1 + (index < 2)]:
                dense, subnet = run(lab.layers[index], dense), run(done[index], subnet)
        after = lab.runner.ffn(lab.layers[2], dense)
    for found in map(passes, (resumed, walked)):
        torch.testing.assert_close((found.dense, found.inputs, found.targets), (dense, subnet, after))


def test_rows_of_heads_are_contiguous() -> None:
    assert rows(torch.tensor([2, 0]), 3).tolist() == [6, 7, 8, 0, 1, 2]


@pytest.mark.parametrize("lowest", [0.1, 1.0, 2.0, 4.0, 5.0, 40.0])
def test_the_lowest_of_errors_that_fall_and_rise_is_found_with_what_was_made(lowest: float) -> None:
    tried: list[float] = []

    def attempt(value: float) -> tuple[float, str]:
        tried.append(value)
        return abs(value - lowest), f"with {value}"

    best = min(range(1, 6), key=lambda value: abs(value - lowest))
    assert best_damping([1, 2, 3, 4, 5], attempt) == (best, f"with {best}")
    assert len(tried) == len(set(tried))


def test_what_cannot_be_had_is_passed_over_upwards() -> None:
    for able in (1, 3, 4, 5):
        found = best_damping(
            [1, 2, 3, 4, 5], lambda value, able=able: (math.inf if value < able else value, value)
        )
        assert found == (able, able)
