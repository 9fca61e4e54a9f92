"""The block's Gauss-Newton step against a dense solution, and what it must never make worse."""

from __future__ import annotations

import pytest
import torch

from lathe.compressor.compute import precision
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.pruning import ImportanceRanking, prune_attention, prune_ffn, select
from lathe.compressor.reconstruction import block_moments, gauss_newton
from lathe.compressor.reconstruction.block_moments import BlockPasses
from lathe.compressor.reconstruction.conjugate_gradients import iterates
from lathe.compressor.reconstruction.gauss_newton import refine_block
from support.tiny_llama import PLANS
from support.tiny_problem import Lab, make_lab

LAYER = 1


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return make_lab(tmp_path_factory.mktemp("dense"))


def pruned(lab: Lab, kind: str) -> Weights:
    """A block of the first heads and channels."""
    ranking = ImportanceRanking(torch.arange(4), torch.arange(8).view(4, 2), torch.arange(96))
    selection, dense = select(ranking, PLANS["mixed"][LAYER]), lab.layers[LAYER]
    if kind == "attention":
        return prune_attention(lab.source.shape, dense, selection)
    return prune_ffn(dense, selection)


def refined(lab: Lab, kind: str, block: Weights, target: torch.Tensor) -> dict[str, torch.Tensor]:
    return refine_block(passes(lab, kind, target).map_shards, lab.runner, kind, block)


def passes(lab: Lab, kind: str, target: torch.Tensor) -> BlockPasses:
    return BlockPasses(lab.runner, kind, lab.embedded, lab.embedded, target, lab.heldout)


@torch.no_grad()
def run(lab: Lab, kind: str, block: Weights) -> torch.Tensor:
    step = lab.runner.attention if kind == "attention" else lab.runner.ffn
    return step(block, lab.embedded)


def error(lab: Lab, kind: str, block: Weights, windows: torch.Tensor) -> float:
    target = run(lab, kind, lab.layers[LAYER])
    return float((run(lab, kind, block) - target)[windows].square().mean())


@pytest.mark.parametrize("kind", ["attention", "ffn"])
def test_the_block_comes_nearer_to_dense_on_text_it_was_not_fitted_on(lab: Lab, kind: str) -> None:
    start, target = pruned(lab, kind), run(lab, kind, lab.layers[LAYER])
    found = refined(lab, kind, start, target)
    assert {n: v.shape for n, v in found.items()} == {n: v.shape for n, v in start.items()}
    changed = {n for n in start if not torch.equal(found[n], start[n])}
    assert changed == set(lab.runner.projections(kind))
    assert error(lab, kind, found, lab.heldout) < 0.95 * error(lab, kind, start, lab.heldout)
    assert not any(v.requires_grad for v in found.values())


@pytest.mark.usefixtures("bfloat16_products")
@pytest.mark.parametrize("kind", ["attention", "ffn"])
def test_products_in_bfloat16_lead_to_the_same_block(
    lab: Lab, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, target = pruned(lab, kind), run(lab, kind, lab.layers[LAYER])
    found = refined(lab, kind, start, target)
    for module in (precision, block_moments):
        monkeypatch.setattr(module, "has_bfloat16", lambda _device: False)
    expected = refined(lab, kind, start, target)
    gain = error(lab, kind, start, lab.heldout) - error(lab, kind, expected, lab.heldout)
    assert gain > 0
    assert error(lab, kind, start, lab.heldout) - error(lab, kind, found, lab.heldout) > 0.95 * gain


@pytest.mark.parametrize("kind", ["attention", "ffn"])
def test_a_block_that_is_right_stays_as_it_is(lab: Lab, kind: str) -> None:
    start = pruned(lab, kind)
    found = refined(lab, kind, start, run(lab, kind, start))
    assert all(torch.equal(found[n], start[n]) for n in start)


@pytest.mark.parametrize("kind", ["attention", "ffn"])
def test_held_out_text_that_disagrees_keeps_the_block(lab: Lab, kind: str) -> None:
    start = pruned(lab, kind)
    target = run(lab, kind, lab.layers[LAYER])
    target[lab.heldout] = run(lab, kind, start)[lab.heldout]
    found = refined(lab, kind, start, target)
    assert all(torch.equal(found[n], start[n]) for n in start)


@pytest.mark.usefixtures("exact_steps")
def test_iterations_lead_to_the_damped_gauss_newton_step(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gauss_newton, "_DAMPING", 0.3)
    start = {n: v[:3] if "gate" in n or "up" in n else v for n, v in pruned(lab, "ffn").items()}
    start["mlp.down_proj.weight"] = start["mlp.down_proj.weight"][:, :3]
    names = lab.runner.projections("ffn")
    target = run(lab, "ffn", lab.layers[LAYER])
    step = gauss_newton.BlockStep(passes(lab, "ffn", target).map_shards, lab.runner, "ffn", start)
    *_, (_, (last,)) = iterates(step, 60, patience=10_000)
    found = torch.cat([(last[n] - start[n]).flatten() for n in names]).double()

    fit, sizes = ~lab.heldout, [start[n].numel() for n in names]
    x, y = lab.embedded[fit], target[fit]

    def outputs(flat: torch.Tensor) -> torch.Tensor:
        parts = (p.view_as(start[n]) for p, n in zip(flat.split(sizes), names, strict=True))
        return lab.runner.ffn({**start, **dict(zip(names, parts, strict=True))}, x).flatten()

    flat = torch.cat([start[n].flatten() for n in names])
    jacobian = torch.func.jacrev(outputs, chunk_size=512)(flat).double()
    tokens = x.shape[0] * x.shape[1]
    (ridge,) = step.factors().ridge([{n: torch.ones_like(v) for n, v in step.start[0].items()}])
    penalty = torch.cat([ridge[n].flatten() for n in names])
    normal = jacobian.T @ jacobian / tokens + penalty.double().diag()
    right = jacobian.T @ (y.flatten() - outputs(flat)).detach().double() / tokens
    expected = torch.linalg.solve(normal, right)
    assert (found - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("kind", ["attention", "ffn"])
def test_watching_tells_what_each_projection_reads_and_gives(lab: Lab, kind: str) -> None:
    block = pruned(lab, kind)
    with lab.runner.watch(kind) as seen:
        run(lab, kind, block)
    assert set(seen) == set(lab.runner.projections(kind))
    for name, (read, given) in seen.items():
        torch.testing.assert_close(read @ block[name].T, given)
    run(lab, kind, block)
    assert lab.runner._watched is None
