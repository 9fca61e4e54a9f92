"""The final reconstruction of the winner, one registered function each, which finishes layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from lathe.artefact.plan import BLOCK_KINDS, BlockKind, ModelShape
from lathe.artefact.registry import Registry
from lathe.compressor.compute.array_store import ArrayStore
from lathe.compressor.compute.workers import LocalWorkers, Workers
from lathe.compressor.model.decoder import LayeredModel
from lathe.compressor.model.output_projection import output
from lathe.compressor.model.pruning import Selection
from lathe.compressor.reconstruction.admm import admm
from lathe.compressor.reconstruction.closed_form import damped, reconstruct
from lathe.compressor.reconstruction.gauss_newton import refine_block
from lathe.compressor.reconstruction.prune_block import prune_block
from lathe.compressor.reconstruction.residual_streams import BlockPosition, SequentialPass, on_workers
from lathe.compressor.reconstruction.sequential import DAMPINGS, Refine, reconstruct_block
from lathe.compressor.statistics import LastingStatistics

_WORTHWHILE = 0.01
"""An output projection that is given stays where another one explains less than this share more."""
Finished = dict[str, torch.Tensor]
SolveProjection = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]
"""(dense weight [D, n], Gram [n, n], kept [k], damping) -> output projection [D, k]."""


@dataclass(frozen=True)
class ReconstructionTask:
    """The dense model, what is kept of it, and the text to fit on.

    Attributes:
        shape: The dense model's dimensions.
        model: The dense model.
        selections: The kept heads and channels of each layer.
        statistics: Second moments of each layer.
        dampings: (attention, FFN) of each layer, chosen on held-out text.
        windows: [B, T] tokens.
        heldout: [B] bool, the windows that nothing is fitted on.
        store: Keeps hidden states.
        workers: Run blocks on the text.
        bfloat16: Whether hidden states may come from bfloat16 products, where those are faster.
        tried: Dampings that are tried where output projections are solved for the subnet's stream.
        given: Gives what the blocks of a layer have in the place of dense tensors, by name; None: nothing. An
            output projection among it stays where another one would gain next to nothing.
    """

    shape: ModelShape
    model: LayeredModel
    selections: list[Selection]
    statistics: Sequence[LastingStatistics]
    dampings: list[tuple[float, float]]
    windows: torch.Tensor
    heldout: torch.Tensor
    store: ArrayStore = field(default_factory=ArrayStore)
    workers: Workers = field(default_factory=LocalWorkers)
    bfloat16: bool = False
    tried: Sequence[float] = DAMPINGS
    given: Callable[[int], Finished] | None = None

    def pruned(self, index: int, solve: SolveProjection, rescale: bool = False) -> tuple[Finished, Finished]:
        """Returns a layer's pruned attention and FFN blocks.

        Args:
            index: The layer.
            solve: Makes the output projections from dense statistics alone.
            rescale: Rescale norms over all heads, too.
        """
        dense, kept, statistics = self.model.layers[index], self.selections[index], self.statistics[index]
        attention, ffn = (
            prune_block(
                self.shape,
                kind,
                dense,
                kept,
                partial(_solve_with, solve, statistics, kind, damping),
                statistics if rescale else None,
            )
            for kind, damping in zip(BLOCK_KINDS, self.dampings[index], strict=True)
        )
        given = self.given(index) if self.given else {}
        return _replaced(attention, given), _replaced(ffn, given)

    def reconstructed(self, index: int) -> tuple[Finished, Finished]:
        """Returns a layer's attention and FFN blocks after the closed-form reconstruction."""
        return self.pruned(index, _closed_form, rescale=True)

    def differs(self, index: int, kind: BlockKind) -> bool:
        """Tells whether a block or one before it differs from dense; until then the streams are equal."""
        if self.given:
            return True
        dense, own = self.shape.layer, self.selections[index].shape
        if any(before.shape != dense for before in self.selections[:index]):
            return True
        narrow = (own.query_heads, own.kv_heads) != (dense.query_heads, dense.kv_heads)
        return narrow or (kind == "ffn" and own.width != dense.width)

    def gives_output(self, index: int, kind: BlockKind) -> bool:
        """Tells whether a block's output projection is among what is given."""
        return self.given is not None and f"{output(kind)}.weight" in self.given(index)


LayerReconstruction = Callable[[int, Callable[[int], Finished | None]], Finished]
"""(layer index, what is already finished) -> the layer's finished tensors; layers come in order."""

reconstructions: Registry[Callable[[ReconstructionTask], LayerReconstruction]] = Registry(
    "reconstruction",
    "lathe.compressor.reconstruction",
    "lathe.reconstructions",
    lambda _name, value: callable(value),
)
"""Every final reconstruction by name; a search method names the one it uses."""


def _solve_with(
    solve: SolveProjection,
    statistics: LastingStatistics,
    kind: BlockKind,
    damping: float,
    weight: torch.Tensor,
    kept: torch.Tensor,
) -> torch.Tensor:
    """Solves with the statistics of a block, which are read only where they are needed."""
    return solve(weight, statistics.attention if kind == "attention" else statistics.ffn, kept, damping)


def _closed_form(
    weight: torch.Tensor, gram: torch.Tensor, kept: torch.Tensor, damping: float
) -> torch.Tensor:
    return reconstruct(weight, damped(gram, damping), kept)


def _admm(weight: torch.Tensor, gram: torch.Tensor, kept: torch.Tensor, _damping: float) -> torch.Tensor:
    return admm(weight, gram, kept)


def _unchanged(
    weight: torch.Tensor, _gram: torch.Tensor, kept: torch.Tensor, _damping: float
) -> torch.Tensor:
    return weight[:, kept]


@reconstructions.register("none")
def none(task: ReconstructionTask) -> LayerReconstruction:
    """Leaves the kept weights as they are."""
    return lambda index, _: _merge(*task.pruned(index, _unchanged))


@reconstructions.register("closed-form")
def closed_form(task: ReconstructionTask) -> LayerReconstruction:
    """Reconstructs each block by itself, from dense statistics."""
    return lambda index, _: _merge(*task.reconstructed(index))


@reconstructions.register("admm")
def paper(task: ReconstructionTask) -> LayerReconstruction:
    """Reconstructs each block by itself as the paper does, by ADMM with rho 1 and 30 iterations."""
    return lambda index, _: _merge(*task.pruned(index, _admm))


@reconstructions.register("sequential")
def sequential(task: ReconstructionTask) -> LayerReconstruction:
    """Reconstructs block after block; each output projection corrects what the blocks before it left."""
    return _in_order(task, None)


@reconstructions.register("gauss-newton")
def gauss_newton(task: ReconstructionTask) -> LayerReconstruction:
    """Reconstructs as `sequential` does and then refines all projections of each block."""
    return _in_order(task, refine_block)


def _in_order(task: ReconstructionTask, refine: Refine | None) -> LayerReconstruction:
    text = SequentialPass(task.model, task.windows, task.heldout, task.store, task.bfloat16)

    def layer(index: int, finished: Callable[[int], Finished | None]) -> Finished:
        done: Finished = {}
        for kind, block in zip(BLOCK_KINDS, task.reconstructed(index), strict=True):
            solved = block
            if block and task.differs(index, kind):
                map_shards = on_workers(task.workers, text, BlockPosition(index, kind, finished, done))
                runner = task.model.runner.at(index)
                worthwhile = _WORTHWHILE if task.gives_output(index, kind) else 0.0
                solved = reconstruct_block(map_shards, runner, kind, block, refine, task.tried, worthwhile)
            done = _merge(done, solved)
        return done

    return layer


def _replaced(block: Finished, given: Finished) -> Finished:
    return {name: given.get(name, value) for name, value in block.items()}


def _merge(attention: Finished, ffn: Finished) -> Finished:
    return {**attention, **ffn}
