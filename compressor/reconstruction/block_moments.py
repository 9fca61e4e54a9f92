"""Measurements of one block on the text for its reconstruction: sums over batches, by shard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from lathe.artefact.plan import BlockKind
from lathe.compressor.compute.array_store import ArrayLike
from lathe.compressor.compute.precision import fast_products, has_bfloat16, products, rounded_factors
from lathe.compressor.compute.workers import SHARDS, shards_of, some_of
from lathe.compressor.model.block_runner import BlockRunner, Weights
from lathe.compressor.model.output_projection import output, target_output, token_weights
from lathe.compressor.reconstruction.block_contexts import BlockContexts
from lathe.compressor.reconstruction.matrices import matrices_of
from lathe.compressor.statistics.collect import batches_of
from lathe.compressor.statistics.gram import CrossGram, Gram, Grams

MapShards = Callable[..., Iterable[Any]]
"""(method of BlockPasses, its arguments) -> its results on all shards, shard by shard."""
Vectors = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(windows of a batch, the block's present outputs) -> v."""
Gradients = Iterator[dict[str, torch.Tensor]]
_FACTOR_BATCHES = 2


class Moments(NamedTuple):
    """Second moments of an output projection's input, alone and with its target output.

    Attributes:
        heldout: Whether they are of the held-out windows.
        gram: Moments of the input.
        cross: Moments of the target output with the input.
    """

    heldout: bool
    gram: Gram
    cross: CrossGram

    def add(self, other: Moments) -> None:
        """Adds what another shard's moments have accumulated."""
        self.gram.add(other.gram)
        self.cross.add(other.cross)


@dataclass(frozen=True)
class BlockPasses:
    """Runs one block, forward and backward, on some shards.

    Attributes:
        runner: Runs the block.
        kind: "attention" or "ffn".
        dense: [B, T, ...] states of the dense model before the block.
        inputs: [B, T, ...] states of the subnet before the block.
        targets: [B, T, ...] states of the dense model after the block.
        heldout: [B] bool.
        shards: The shards to run on.
        bfloat16: Whether factors may be rounded to bfloat16 for the output projection's inputs and moments.
        contexts: Keeps these inputs.
    """

    runner: BlockRunner
    kind: BlockKind
    dense: ArrayLike
    inputs: ArrayLike
    targets: ArrayLike
    heldout: torch.Tensor
    shards: range = range(SHARDS)
    bfloat16: bool = False
    contexts: BlockContexts = field(default_factory=BlockContexts)

    def map_shards(self, method: Callable[..., Iterable[Any]], *args: Any) -> Iterable[Any]:
        """Calls a method on this process's shards."""
        return method(self, *args)

    def moments(self, block: Weights) -> Iterator[Moments]:
        """Measures the moments of a pruned block; an output bias counts as one more input column."""
        return (
            self._moments(block, heldout, shard)
            for heldout in (False, True)
            for shard in self._parts(heldout)
        )

    @torch.no_grad()
    def _moments(self, block: Weights, heldout: bool, shard: Sequence[torch.Tensor]) -> Moments:
        runner, name = self.runner, output(self.kind)
        rows, columns = block[f"{name}.weight"].shape
        columns += f"{name}.bias" in block
        sums = Moments(heldout, Gram(columns), CrossGram(rows, columns))
        for part in shard:
            state = self.inputs[part]
            with products(state.device, self.bfloat16):
                x = runner.context(self.kind, block, state)
            x = x.to(state.dtype)
            self.contexts.keep(block, len(self.heldout), part, x)
            weighting = token_weights(runner, runner.project(block, name, x))
            if f"{name}.bias" in block:
                x = torch.cat([x, torch.ones_like(x[..., :1])], -1)
            x = x * weighting
            added, missing = (
                runner.stream(self.targets[part]) - runner.stream(before[part])
                for before in (self.dense, self.inputs)
            )
            target = target_output(runner, block, self.kind, added, missing)
            with rounded_factors(x.device, self.bfloat16):
                sums.gram.add_batch(x)
                sums.cross.add_batch(target, x)
        return sums

    def input_gram(self, block: Weights) -> Iterator[Gram]:
        """Accumulates the Gram matrix of what a block reads, behind its norm, on the windows to fit."""
        return (self._input_gram(block, shard) for shard in self._parts(False))

    @torch.no_grad()
    def _input_gram(self, block: Weights, shard: Sequence[torch.Tensor]) -> Gram:
        gram = Gram(self.runner.shape.hidden_size)
        for part in shard:
            gram.add_batch(self.runner.block_input(self.kind, block, self.inputs[part]))
        return gram

    def errors(self, block: Weights) -> Iterator[list[tuple[float, int]]]:
        """Measures (sum of squares, tokens) of each held-out batch."""

        @torch.no_grad()
        def error(part: torch.Tensor) -> tuple[float, int]:
            squares = float((self._outputs(block, part) - self.targets[part]).square().sum())
            return squares, len(part) * self.inputs.shape[1]

        return ([error(part) for part in shard] for shard in self._parts(True))

    def descent(self, block: Weights, names: list[str]) -> Gradients:
        """Computes minus the gradient per token with respect to the matrices with these names."""
        return self._pull_back(block, names, lambda part, y: self.targets[part] - y)

    def curvature(self, block: Weights, moved: Weights, length: float) -> Gradients:
        """Computes J^T J d per token; `moved` are the matrices moved by `length` times d."""
        rough = has_bfloat16(next(iter(moved.values())).device)

        @torch.no_grad()
        def image(part: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            here = self._outputs(block, part) if rough else y
            return (self._outputs(block, part, moved) - here) / length

        return self._pull_back(block, [*moved], image)

    def grams(self, block: Weights, names: list[str]) -> Iterator[Grams]:
        """Accumulates Gram matrices of inputs and of pulled-back random probes, on a few batches."""
        batches = batches_of(self.heldout, False)
        return (self._grams(block, names, part) for part in some_of(batches, self.shards, _FACTOR_BATCHES))

    @torch.enable_grad()
    def _grams(self, block: Weights, names: list[str], shard: Sequence[torch.Tensor]) -> Grams:
        leaves = self._leaves(block, names)
        grams = matrices_of(self.runner, self.kind).grams(leaves)
        for part in shard:
            with self.runner.watch(self.kind, leaves) as watched, fast_products(leaves[names[0]].device):
                y = self._outputs(block, part, leaves)
            generator = torch.Generator().manual_seed(int(part[0]))
            probe = torch.randint(0, 2, y.shape, generator=generator).to(y) * 2 - 1
            outputs = [given for _, given in watched.values()]
            gradients = torch.autograd.grad(y, outputs, probe)
            with rounded_factors(probe.device):
                for (name, (x, _)), gradient in zip(watched.items(), gradients, strict=True):
                    grams.add_batch(name, x.detach(), gradient)
        return grams

    def _pull_back(self, block: Weights, names: list[str], vectors: Vectors) -> Gradients:
        """Computes J^T v / n, shard by shard."""
        return (self._pulled_back(block, names, vectors, shard) for shard in self._parts(False))

    def _pulled_back(
        self, block: Weights, names: list[str], vectors: Vectors, shard: Sequence[torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        tokens = int((~self.heldout).sum()) * self.inputs.shape[1]
        leaves = self._leaves(block, names)
        for part in shard:
            with torch.enable_grad(), fast_products(leaves[names[0]].device):
                y = self._outputs(block, part, leaves)
            y.backward(vectors(part, y.detach()) / tokens)
        return {n: leaf.grad for n, leaf in leaves.items() if leaf.grad is not None}

    def _outputs(self, block: Weights, part: torch.Tensor, other: Weights | None = None) -> torch.Tensor:
        """Runs the block on some windows, with other matrices in the place of its own where given."""
        replaced = matrices_of(self.runner, self.kind).join(other or {})
        return self.runner.block(self.kind, {**block, **replaced}, self.inputs[part])

    def _leaves(self, block: Weights, names: list[str]) -> dict[str, torch.Tensor]:
        matrices = matrices_of(self.runner, self.kind).split(block)
        return {n: matrices[n].clone().requires_grad_() for n in names}

    def _parts(self, heldout: bool) -> list[list[torch.Tensor]]:
        return shards_of(batches_of(self.heldout, heldout), self.shards)
