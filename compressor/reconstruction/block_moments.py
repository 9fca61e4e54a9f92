"""What the reform of one block reads off the text: sums over batches, by shard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from lathe.artefact.plan import BlockKind
from lathe.compressor.compute.array_store import ArrayLike
from lathe.compressor.compute.workers import SHARDS, shards_of, some_of
from lathe.compressor.model.block_runner import BlockRunner, Weights
from lathe.compressor.model.output_projection import output, target_output, token_weights
from lathe.compressor.reconstruction.matrices import matrices_of
from lathe.compressor.statistics.collect import batches_of
from lathe.compressor.statistics.gram import CrossGram, Gram, Grams

MapShards = Callable[..., Iterable[Any]]
"""(method of BlockPasses, its arguments) -> what it gives by shard, of all shards."""
Vectors = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(windows of a batch, the block's present outputs) -> v."""
Pulled = Iterator[dict[str, torch.Tensor]]
_FACTOR_BATCHES = 2


class Moments(NamedTuple):
    """Of what the output projection reads, and with what it is to give. heldout: of which windows."""

    heldout: bool
    gram: Gram
    cross: CrossGram

    def add(self, other: Moments) -> None:
        """What another shard's have accumulated."""
        self.gram.add(other.gram)
        self.cross.add(other.cross)


@dataclass(frozen=True)
class BlockPasses:
    """Runs one block, forward and back, on some shards.

    Args:
        kind: "attention" or "ffn".
        dense, inputs: [B, T, ...] states before it, of the dense model and of the subnet.
        targets: the dense model's after it.
        heldout: [B] bool.
        shards: which of them.
    """

    runner: BlockRunner
    kind: BlockKind
    dense: ArrayLike
    inputs: ArrayLike
    targets: ArrayLike
    heldout: torch.Tensor
    shards: range = range(SHARDS)

    def map_shards(self, method: Callable[..., Iterable[Any]], *args: Any) -> Iterable[Any]:
        """Of these shards."""
        return method(self, *args)

    def moments(self, cut: Weights) -> Iterator[Moments]:
        """Of the block after the closed-form reform; with an output bias, it is one more column."""
        return (self._moments(cut, apart, shard) for apart in (False, True) for shard in self._parts(apart))

    @torch.no_grad()
    def _moments(self, cut: Weights, apart: bool, shard: Sequence[torch.Tensor]) -> Moments:
        runner, name = self.runner, output(self.kind)
        context = runner.attention_context if self.kind == "attention" else runner.ffn_context
        rows, columns = cut[f"{name}.weight"].shape
        columns += f"{name}.bias" in cut
        found = Moments(apart, Gram(columns), CrossGram(rows, columns))
        for part in shard:
            read = context(cut, self.inputs[part])
            weighed = token_weights(runner, runner.project(cut, name, read))
            if f"{name}.bias" in cut:
                read = torch.cat([read, torch.ones_like(read[..., :1])], -1)
            found.gram.add_batch(read * weighed)
            added, missing = (
                runner.stream(self.targets[part]) - runner.stream(before[part])
                for before in (self.dense, self.inputs)
            )
            found.cross.add_batch(target_output(runner, cut, self.kind, added, missing), read * weighed)
        return found

    def errors(self, block: Weights) -> Iterator[list[tuple[float, int]]]:
        """(sum of squares, tokens) of each held-out batch."""

        @torch.no_grad()
        def error(part: torch.Tensor) -> tuple[float, int]:
            squares = float((self._outputs(block, part) - self.targets[part]).square().sum())
            return squares, len(part) * self.inputs.shape[1]

        return ([error(part) for part in shard] for shard in self._parts(True))

    def descent(self, block: Weights, names: list[str]) -> Pulled:
        """Minus the gradient per token, by the matrices with these names."""
        return self._pull(block, names, lambda part, y: self.targets[part] - y)

    def curvature(self, block: Weights, moved: Weights, length: float) -> Pulled:
        """J^T J d per token; moved: matrices, moved by `length` times d."""

        def image(part: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return (self._outputs(block, part, moved) - y) / length

        return self._pull(block, [*moved], image)

    def grams(self, block: Weights, names: list[str]) -> Iterator[Grams]:
        """Of what the matrices read and of random probes of the outputs, on a few batches."""
        chosen = some_of(batches_of(self.heldout, False), self.shards, _FACTOR_BATCHES)
        return (self._grams(block, names, shard) for shard in chosen)

    @torch.enable_grad()
    def _grams(self, block: Weights, names: list[str], shard: Sequence[torch.Tensor]) -> Grams:
        leaves = self._leaves(block, names)
        grams = matrices_of(self.runner, self.kind).grams(leaves)
        for part in shard:
            with self.runner.watch(self.kind, leaves) as seen:
                y = self._outputs(block, part, leaves)
            generator = torch.Generator().manual_seed(int(part[0]))
            probe = torch.randint(0, 2, y.shape, generator=generator).to(y) * 2 - 1
            made = [given for _, given in seen.values()]
            gradients = torch.autograd.grad(y, made, probe)
            for (name, (read, _)), gradient in zip(seen.items(), gradients, strict=True):
                grams.add_batch(name, read.detach(), gradient)
        return grams

    def _pull(self, block: Weights, names: list[str], vectors: Vectors) -> Pulled:
        """J^T v / n."""
        return (self._pulled(block, names, vectors, shard) for shard in self._parts(False))

    @torch.enable_grad()
    def _pulled(
        self, block: Weights, names: list[str], vectors: Vectors, shard: Sequence[torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        tokens = int((~self.heldout).sum()) * self.inputs.shape[1]
        leaves = self._leaves(block, names)
        for part in shard:
            y = self._outputs(block, part, leaves)
            y.backward(vectors(part, y.detach()) / tokens)
        return {n: leaf.grad for n, leaf in leaves.items() if leaf.grad is not None}

    def _outputs(self, block: Weights, part: torch.Tensor, other: Weights | None = None) -> torch.Tensor:
        """other: matrices in the place of the block's."""
        put = matrices_of(self.runner, self.kind).put(other or {})
        return self.runner.block(self.kind, {**block, **put}, self.inputs[part])

    def _leaves(self, block: Weights, names: list[str]) -> dict[str, torch.Tensor]:
        taken = matrices_of(self.runner, self.kind).taken(block)
        return {n: taken[n].clone().requires_grad_() for n in names}

    def _parts(self, apart: bool) -> list[list[torch.Tensor]]:
        return shards_of(batches_of(self.heldout, apart), self.shards)
