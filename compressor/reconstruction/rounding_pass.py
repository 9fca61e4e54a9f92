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
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from lathe.artefact.plan import BLOCK_KINDS, BlockKind, Plan
from lathe.compressor.compute.array_store import ArrayStore
from lathe.compressor.compute.workers import LocalWorkers
from lathe.compressor.model.block_runner import BlockRunner, Weights
from lathe.compressor.model.decoder import LayeredModel
from lathe.compressor.model.names import of_attention
from lathe.compressor.model.output_projection import output
from lathe.compressor.model.rounded_tensors import Rounded, dequantized
from lathe.compressor.model.rounding import QuantizedMatrix
from lathe.compressor.model.stored_format import group_of, products_of, quantize_experts
from lathe.compressor.reconstruction.block_moments import BlockPasses, MapShards
from lathe.compressor.reconstruction.compensated_rounding import round_compensated
from lathe.compressor.reconstruction.residual_streams import BlockPosition, SequentialPass, on_workers
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
    """

    model: LayeredModel
    plan: Plan
    windows: torch.Tensor
    heldout: torch.Tensor
    store: ArrayStore = field(default_factory=ArrayStore)
    bfloat16: bool = False

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
            bits = self.plan[index].bits(kind)
            if bits and runner.projections(kind):
                before = {**self.model.layers[index], **dequantized(done)}
                position = BlockPosition(index, kind, finished, before)
                block = {name: w for name, w in before.items() if of_attention(name) == (kind == "attention")}
                done |= round_block(
                    on_workers(LocalWorkers(), self._text, position), runner, kind, block, bits
                )
        return done

    def served(self, index: int, rounded: Rounded) -> dict[str, torch.Tensor]:
        """Returns a layer's values as they will be served."""
        layer, bits = dict(self.model.layers[index]), self.plan[index].bits("ffn")
        if bits and self.model.runner.shape.experts:
            layer |= quantize_experts(layer, bits)[0]
        return layer | dequantized(rounded)

    @cached_property
    def _text(self) -> SequentialPass:
        return SequentialPass(self.model, self.windows, self.heldout, self.store, self.bfloat16)


def round_block(
    map_shards: MapShards, runner: BlockRunner, kind: BlockKind, block: Weights, bits: int
) -> Rounded:
    """Returns a block's rounded tensors by name.

    Args:
        map_shards: Runs the block on the text, at its position in the streams.
        runner: Runs the block.
        kind: "attention" or "ffn".
        block: Its values before rounding.
        bits: Of a code.
    """
    last = f"{output(kind)}.weight"
    groups = {name: group_of(block, names, bits) for names in products_of(block) for name in names}
    inner = [name for name in groups if name != last]
    gram = merge_into_first(map_shards(BlockPasses.input_gram, block)).finalize()
    rounded: Rounded = {}
    for group in sorted({groups[name] for name in inner}):
        alike = [name for name in inner if groups[name] == group]
        found = round_compensated(torch.cat([block[name] for name in alike]), gram, bits, group)
        rounded |= zip(alike, _split(found, [block[name] for name in alike]), strict=True)
    return rounded | _round_output(
        map_shards, runner, kind, {**block, **dequantized(rounded)}, bits, groups[last]
    )


def _split(found: QuantizedMatrix, weights: list[torch.Tensor]) -> list[QuantizedMatrix]:
    """Returns the parts of a rounded stack of matrices."""
    counts = [len(weight) for weight in weights]
    parts = zip(weights, found.codes.split(counts), found.scales.split(counts), strict=True)
    return [_as_moved(replace(found, codes=codes, scales=scales), weight) for weight, codes, scales in parts]


def _as_moved(found: QuantizedMatrix, weight: torch.Tensor) -> QuantizedMatrix:
    """Returns a matrix with its error against the weight before rounding."""
    error = (found.values - weight).norm() / weight.norm().clamp(min=1e-30)
    return replace(found, error=float(error))


def _round_output(
    map_shards: MapShards, runner: BlockRunner, kind: BlockKind, block: Weights, bits: int, group: int
) -> Rounded:
    """Returns the output projection, solved again and rounded, and its bias where there is one."""
    name, moments = output(kind), measure_output(map_shards, block)
    weight = block[f"{name}.weight"]
    columns = weight.shape[1]
    solved, gram = solve_output(moments, runner, kind, block)[:, :columns], moments.gram
    if f"{name}.bias" not in block:
        found = round_compensated(solved, gram, bits, group)
        return {f"{name}.weight": _as_moved(found, weight)}
    inputs, means, total = gram[:columns, :columns], gram[columns, :columns], gram[columns, columns]
    found = round_compensated(solved, inputs - means.outer(means) / total, bits, group)
    bias = (moments.cross[:, columns] - found.values.double() @ means) / total
    return {f"{name}.weight": _as_moved(found, weight), f"{name}.bias": bias.to(weight.dtype)}
