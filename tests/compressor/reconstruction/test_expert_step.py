"""The Gauss-Newton step of experts comes nearer to dense on held-out text and is exact where it should be."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from lathe.artefact.plan import LayerShape
from lathe.compressor.compute.array_store import ArrayStore
from lathe.compressor.model.block_runner import BlockRunner, Weights
from lathe.compressor.model.decoder import LayeredModel
from lathe.compressor.model.pruning import ImportanceRanking, prune_ffn, select
from lathe.compressor.reconstruction.block_moments import BlockPasses
from lathe.compressor.reconstruction.conjugate_gradients import iterates
from lathe.compressor.reconstruction.gauss_newton import BlockStep, refine_block
from support.tiny_families import family_checkpoint
from support.tiny_llama import tokens

SHAPES = {"narrower": (48, 4), "fewer": (96, 3), "both": (48, 2)}


@dataclass(frozen=True)
class Block:
    """One dense FFN of experts, what it reads and makes of it, and which windows are held out."""

    runner: BlockRunner
    dense: Weights
    inputs: torch.Tensor
    target: torch.Tensor
    heldout: torch.Tensor

    def pruned(self, shape: str) -> Weights:
        """Returns the block of the first experts and channels."""
        width, experts = SHAPES[shape]
        channels = torch.arange(4 * 96).view(4, 96)
        ranking = ImportanceRanking(torch.arange(4), torch.arange(8).view(4, 2), channels, torch.arange(4))
        return prune_ffn(self.dense, select(ranking, LayerShape(8, 4, width, experts)))

    @torch.no_grad()
    def run(self, block: Weights) -> torch.Tensor:
        return self.runner.ffn(block, self.inputs)

    def step(self, start: Weights) -> BlockStep:
        return BlockStep(self.passes(self.target).map_shards, self.runner, "ffn", start)

    def passes(self, target: torch.Tensor) -> BlockPasses:
        return BlockPasses(self.runner, "ffn", self.inputs, self.inputs, target, self.heldout)

    def error(self, block: Weights) -> float:
        return float((self.run(block) - self.target)[self.heldout].square().mean())


@pytest.fixture(scope="module", params=["mixtral", "gpt_oss"])
def block(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Block:
    source = family_checkpoint(tmp_path_factory.mktemp("dense"), request.param)
    model, heldout = LayeredModel.open(source, ArrayStore()), torch.arange(48) >= 36
    runner, dense = model.runner.at(0), model.layers[0]
    with torch.no_grad():
        inputs = runner.attention(dense, model.embedding[tokens(48, 64)])
        return Block(runner, dense, inputs, runner.ffn(dense, inputs), heldout)


@pytest.mark.parametrize("shape", SHAPES)
def test_it_comes_nearer_to_dense_on_text_it_was_not_fitted_on(block: Block, shape: str) -> None:
    start = block.pruned(shape)
    found = refine_block(block.passes(block.target).map_shards, block.runner, "ffn", start)
    assert {n: v.shape for n, v in found.items()} == {n: v.shape for n, v in start.items()}
    changed = {n for n in start if not torch.equal(found[n], start[n])}
    assert changed == set(block.runner.expert_projections())
    assert block.error(found) < 0.95 * block.error(start)


def test_experts_that_are_right_stay_as_they_are(block: Block) -> None:
    start = block.pruned("both")
    found = refine_block(block.passes(block.run(start)).map_shards, block.runner, "ffn", start)
    assert all(torch.equal(found[n], start[n]) for n in start)


def test_the_block_is_put_together_as_it_was_taken_apart(block: Block) -> None:
    start = block.pruned("both")
    step = block.step(start)
    again = step.block(step.start[0])
    assert again.keys() == start.keys()
    assert all(torch.equal(again[name], start[name]) for name in start)


@pytest.mark.usefixtures("exact_steps")
def test_iterations_lead_to_the_damped_least_squares_solution(block: Block) -> None:
    """Checks the output projection alone, in which the block is linear."""
    start, down = block.pruned("both"), block.runner.expert_projections()[-1]
    step = block.step(start)
    step.start = [{down: step.start[0][down]}]
    with torch.enable_grad():
        *_, (_, (last,)) = iterates(step, 200, patience=10_000)
    fit = ~block.heldout
    with torch.no_grad():
        read = block.runner.ffn_context(start, block.inputs[fit]).flatten(0, 1).double()
    read = read[:, : start[down].shape[1]]
    missing = (block.target - block.run(start))[fit].flatten(0, 1).double()
    (ridge,) = step.factors().ridge([{down: torch.ones(1)}])
    normal = read.T @ read / len(read) + float(ridge[down]) * torch.eye(read.shape[1]).double()
    expected = torch.linalg.solve(normal, read.T @ missing / len(read)).T
    found = (step.block(last)[down] - start[down]).double()
    assert (found - expected).norm() < 0.02 * expected.norm()
