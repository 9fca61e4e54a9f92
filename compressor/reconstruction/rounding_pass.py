"""Rounding block after block, each from what it reads in the subnet whose earlier blocks are rounded.

In a block the matrices that read the same, all but the output projection, come first, by compensated rounding
with the Gram matrix of their input. The output projection then reads what these make. Before it is rounded,
it is solved again, so that the stream of the rounded subnet comes nearest to that of the subnet before
rounding: the solve of `sequential.py`, with that subnet in the place of the dense model. An output bias,
which stays as it is, takes up the mean of what rounding the projection changes.

Experts are rounded to nearest, each matrix by itself, when they are exported; the blocks behind them read
that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch

from lathe.artefact.plan import BLOCK_KINDS, BlockKind, Plan
from lathe.compressor.compute.array_store import ArrayStore
from lathe.compressor.compute.workers import LocalWorkers
from lathe.compressor.model.block_runner import BlockRunner, Weights
from lathe.compressor.model.decoder import LayeredModel
from lathe.compressor.model.embedding import Embedding
from lathe.compressor.model.groups import BY_ERROR, GroupRule
from lathe.compressor.model.names import of_attention
from lathe.compressor.model.output_projection import output
from lathe.compressor.model.rounded_tensors import Rounded, dequantized
from lathe.compressor.model.stored_format import quantize_experts
from lathe.compressor.reconstruction.block_moments import BlockPasses, MapShards
from lathe.compressor.reconstruction.residual_streams import BlockPosition, SequentialPass, on_workers
from lathe.compressor.reconstruction.rounded_block import AS_STORED, BlockRounding, Grams, round_block
from lathe.compressor.reconstruction.rounded_head import EXACT_BITS
from lathe.compressor.reconstruction.sequential import measure_output, solve_output
from lathe.compressor.statistics.gram import merge_into_first


@dataclass(frozen=True)
class RoundingPass:
    """One pass over some text that rounds a subnet's layers in order.

    Attributes:
        model: The subnet before rounding, with the values that its checkpoint has.
        plan: The bits of its blocks; 0 leaves a block as it is.
        windows: [B, T] tokens.
        heldout: [B] bool, the windows that nothing is fitted on.
        store: Keeps hidden states.
        bfloat16: Whether they may come from bfloat16 products, where those are faster.
        method: Gives what rounds a block but experts, by its bits in the plan, None where it is left; by
            default `round_block` in these bits.
        embedding: The rounded one, where it is rounded and matters.
        groups: Gives each matrix its group, without a method.
        gradients: Gives [R, R] the Gram matrices of the gradients at the outputs of a layer's matrices, by
            name, as far as they are known; those of fewer than 8 bits are rounded by them.
        keep_zeros: Whether weights that are zero stay zero, without a method or gradients.
        known: Gives matrices of a layer that are rounded already, by name: all of a block, all but its output
            projection, or none.
    """

    model: LayeredModel
    plan: Plan
    windows: torch.Tensor
    heldout: torch.Tensor
    store: ArrayStore = field(default_factory=ArrayStore)
    bfloat16: bool = False
    method: Callable[[int], BlockRounding | None] | None = None
    embedding: Embedding | None = None
    groups: GroupRule = BY_ERROR
    gradients: Callable[[int], Grams] = lambda _index: AS_STORED
    keep_zeros: bool = False
    known: Callable[[int], Rounded] = lambda _index: {}

    def layer(self, index: int, below: Callable[[int], Rounded]) -> Rounded:
        """Returns a layer's rounded tensors by name.

        Args:
            index: The layer; they come in order.
            below: Returns what this method made of a layer below, by index.
        """
        runner, done = self.model.runner.at(index), Rounded()

        def finished(layer: int) -> dict[str, torch.Tensor]:
            return self.served(layer, below(layer))

        for kind in BLOCK_KINDS:
            method = self._method(index, kind)
            if method is None or not runner.projections(kind):
                continue
            before = {**self.model.layers[index], **dequantized(done)}
            position = BlockPosition(index, kind, finished, before)
            block = {name: w for name, w in before.items() if of_attention(name) == (kind == "attention")}
            if f"{output(kind)}.weight" in block:
                known = {name: value for name, value in self.known(index).items() if name in block}
                shards = on_workers(LocalWorkers(), self._text, position)
                done |= _round(shards, runner, kind, block, method, known)
        return done

    def _method(self, index: int, kind: BlockKind) -> BlockRounding | None:
        """Returns what rounds a block; None where it is left."""
        bits = self.plan[index].bits(kind)
        if self.method:
            return self.method(bits)
        if not bits:
            return None
        gradients = self.gradients(index) if bits < EXACT_BITS else AS_STORED
        return partial(
            round_block, bits=bits, groups=self.groups, gradients=gradients, keep_zeros=self.keep_zeros
        )

    def served(self, index: int, rounded: Rounded) -> dict[str, torch.Tensor]:
        """Returns a layer's values as they will be served."""
        layer, bits = dict(self.model.layers[index]), self.plan[index].bits("ffn")
        if bits and self.model.runner.shape.experts:
            layer |= quantize_experts(layer, bits, self.groups)[0]
        return layer | dequantized(rounded)

    @cached_property
    def _text(self) -> SequentialPass:
        return SequentialPass(
            self.model, self.windows, self.heldout, self.store, self.bfloat16, self.embedding
        )


def _round(
    map_shards: MapShards,
    runner: BlockRunner,
    kind: BlockKind,
    block: Weights,
    method: BlockRounding,
    known: Rounded,
) -> Rounded:
    """Returns a block's rounded tensors by name.

    Args:
        map_shards: Runs the block on the text, at its position in the streams.
        runner: Runs the block.
        kind: "attention" or "ffn".
        block: Its values before rounding.
        method: Rounds its matrices.
        known: Those that are rounded already: all, all but the output projection, or none.
    """
    inner = known
    if f"{output(kind)}.weight" in known:
        return known
    if not known:
        gram = merge_into_first(map_shards(BlockPasses.input_gram, block)).finalize()
        inner = dict(method(block, dict.fromkeys(runner.projections(kind)[:-1], gram), AS_STORED))
    return inner | _round_output(map_shards, runner, kind, {**block, **dequantized(inner)}, method)


def _round_output(
    map_shards: MapShards, runner: BlockRunner, kind: BlockKind, block: Weights, method: BlockRounding
) -> Rounded:
    """Returns the output projection, solved again and rounded, and its bias where there is one."""
    name, moments = output(kind), measure_output(map_shards, block)
    weight, biased = f"{name}.weight", f"{name}.bias" in block
    columns = block[weight].shape[1]
    solved = {weight: solve_output(moments, runner, kind, block)[:, :columns]}
    gram, output_means = moments.gram, moments.cross[:, -1].clone()
    del moments
    if not biased:
        return dict(method(block, {weight: gram}, solved))
    gram, means, total = gram[:columns, :columns], gram[columns, :columns], gram[columns, columns]
    found = method(block, {weight: gram - means.outer(means) / total}, solved)
    bias = (output_means - dequantized(found)[weight].double() @ means) / total
    return {**found, f"{name}.bias": bias.to(block[weight].dtype)}
