"""The last reform of the winner, one registered function each, giving finished tensors layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch

from lathe.artefact.plan import BLOCK_KINDS, BlockKind, ModelShape
from lathe.artefact.registry import Registry
from lathe.compressor.compute.array_store import ArrayStore
from lathe.compressor.compute.workers import LocalWorkers, Workers
from lathe.compressor.model.decoder import LayeredModel
from lathe.compressor.model.names import DOWN_PROJ, O_PROJ
from lathe.compressor.model.pruning import Selection, prune_attention, prune_ffn, rows
from lathe.compressor.reconstruction.admm import admm
from lathe.compressor.reconstruction.block_moments import MapShards
from lathe.compressor.reconstruction.closed_form import damped, reconstruct
from lathe.compressor.reconstruction.gauss_newton import refine_block
from lathe.compressor.reconstruction.head_norms import rescale_qk_norm
from lathe.compressor.reconstruction.sequential import Refine, reconstruct_block
from lathe.compressor.reconstruction.streams import BlockPosition, ResidualStreams, SequentialPass
from lathe.compressor.statistics import LastingStatistics

Finished = dict[str, torch.Tensor]
Solve = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]
"""(dense weight [D, n], Gram [n, n], kept [k], damping) -> output projection [D, k]."""


@dataclass(frozen=True)
class ReconstructionTask:
    """The dense model, what stays of it, and the text to fit on.

    Args:
        dampings: (attention, FFN) of each layer, chosen on held-out text.
        windows: [B, T] tokens.
        heldout: [B] bool, the windows that nothing is fitted on.
        store: for hidden states.
        workers: who runs blocks on the text.
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

    def cut(self, index: int, solve: Solve) -> tuple[Finished, Finished]:
        """A layer's attention and FFN tensors with output projections solved from dense statistics alone."""
        dense, kept, stats = self.model.layers[index], self.selections[index], self.statistics[index]
        attention = prune_attention(self.shape, dense, kept)
        ffn = prune_ffn(dense, kept)
        columns = rows(kept.query_heads, self.shape.head_dim)
        for block, name, kind, chosen, damping in (
            (attention, O_PROJ, "attention", columns, self.dampings[index][0]),
            (ffn, DOWN_PROJ, "ffn", kept.channels, self.dampings[index][1]),
        ):
            weight = dense[f"{name}.weight"]
            if block and len(chosen) < weight.shape[1]:
                block[f"{name}.weight"] = solve(weight, getattr(stats, kind), chosen, damping)
        return attention, ffn

    def reformed(self, index: int) -> tuple[Finished, Finished]:
        """A layer's attention and FFN tensors after the closed-form reform."""
        attention, ffn = self.cut(index, _closed_form)
        stats, kept = self.statistics[index], self.selections[index]
        return rescale_qk_norm(self.shape, stats, kept, attention), ffn

    def apart(self, index: int, kind: BlockKind) -> bool:
        """Whether a block, or one before it, is narrower than dense: until then the streams are the same."""
        dense, own = self.shape.layer, self.selections[index].shape
        if any(before.shape != dense for before in self.selections[:index]):
            return True
        narrow = (own.query_heads, own.kv_heads) != (dense.query_heads, dense.kv_heads)
        return narrow or (kind == "ffn" and own.width != dense.width)


LayerReconstruction = Callable[[int, Callable[[int], Finished | None]], Finished]
"""(layer index, what is already finished) -> the layer's finished tensors; layers come in order."""

reconstructions: Registry[Callable[[ReconstructionTask], LayerReconstruction]] = Registry(
    "reconstruction",
    "lathe.compressor.reconstruction",
    "lathe.reconstructions",
    lambda _name, value: callable(value),
)
"""Every last reform by name; a search method says which one it wants."""


def _closed_form(
    weight: torch.Tensor, gram: torch.Tensor, kept: torch.Tensor, damping: float
) -> torch.Tensor:
    return reconstruct(weight, damped(gram, damping), kept)


@reconstructions.register("none")
def none(job: ReconstructionTask) -> LayerReconstruction:
    """Weights as they were."""
    return lambda i, _: _merge(*job.cut(i, lambda weight, _gram, kept, _damping: weight[:, kept]))


@reconstructions.register("closed-form")
def closed_form(job: ReconstructionTask) -> LayerReconstruction:
    """Each block by itself, from dense statistics."""
    return lambda i, _: _merge(*job.reformed(i))


@reconstructions.register("admm")
def paper(job: ReconstructionTask) -> LayerReconstruction:
    """The paper's: each block by itself, ADMM with rho 1 and 30 iterations."""
    return lambda i, _: _merge(*job.cut(i, lambda weight, gram, kept, _damping: admm(weight, gram, kept)))


@reconstructions.register("sequential")
def sequential(job: ReconstructionTask) -> LayerReconstruction:
    """Block after block, each mending with its output projection what the ones before it left."""
    return _in_order(job, None)


@reconstructions.register("gauss-newton")
def gauss_newton(job: ReconstructionTask) -> LayerReconstruction:
    """As `sequential`, each block then refined with all of its projections."""
    return _in_order(job, refine_block)


def _in_order(job: ReconstructionTask, refine: Refine | None) -> LayerReconstruction:
    course = SequentialPass(job.model, job.windows, job.heldout, job.store)

    def layer(index: int, finished: Callable[[int], Finished | None]) -> Finished:
        done: Finished = {}
        for kind, cut in zip(BLOCK_KINDS, job.reformed(index), strict=True):
            if cut and job.apart(index, kind):
                map_shards = _shard_mapper(job.workers, course, BlockPosition(index, kind, finished, done))
                cut = reconstruct_block(map_shards, job.model.runner.at(index), kind, cut, refine)
            done = _merge(done, cut)
        return done

    return layer


def _shard_mapper(workers: Workers, course: SequentialPass, spot: BlockPosition) -> MapShards:
    def map_shards(method: Callable[..., Iterable[Any]], *args: Any) -> Iterable[Any]:
        return chain.from_iterable(workers.map_shards(course, ResidualStreams.block, spot, method, *args))

    return map_shards


def _merge(attention: Finished, ffn: Finished) -> Finished:
    return {**attention, **ffn}
