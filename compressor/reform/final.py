"""The last reform of the winner, one registered function each, giving finished tensors layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from compressor.errors import UserError
from compressor.families import Family
from compressor.forward import BlockRunner, Weights
from compressor.plan import ModelShape
from compressor.reform.admm import admm
from compressor.reform.closed_form import damped, reform
from compressor.reform.gauss_newton import refine_block
from compressor.reform.head_norms import same_size
from compressor.reform.sequential import Refine, Streams, advance, reform_block
from compressor.registry import Registry
from compressor.room import Room, Rows
from compressor.statistics import LastingStatistics
from compressor.surgery import Selection, cut_attention, cut_ffn, rows

Finished = dict[str, torch.Tensor]
Solve = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]
"""(dense weight [D, n], Gram [n, n], kept [k], damping) -> output projection [D, k]."""


@dataclass(frozen=True)
class ReformJob:
    """The dense model, what stays of it, and the text to fit on.

    Args:
        layers: dense weights.
        dampings: (attention, FFN) of each layer, chosen on held-out text.
        embedded: [B, T, D] what the first layer reads.
        heldout: [B] bool, the windows that nothing is fitted on.
        room: for hidden states.
    """

    family: Family
    shape: ModelShape
    runner: BlockRunner
    layers: Sequence[Weights]
    selections: list[Selection]
    statistics: Sequence[LastingStatistics]
    dampings: list[tuple[float, float]]
    embedded: Rows
    heldout: torch.Tensor
    room: Room = field(default_factory=Room)

    def cut(self, index: int, solve: Solve) -> tuple[Finished, Finished]:
        """A layer's attention and FFN tensors with output projections solved from dense statistics alone."""
        dense, kept, stats = self.layers[index], self.selections[index], self.statistics[index]
        attention = cut_attention(self.family, self.shape, dense, kept)
        ffn = cut_ffn(self.family, dense, kept)
        columns = rows(kept.query_heads, self.shape.head_dim)
        for block, name, kind, chosen, damping in (
            (attention, self.family.o, "attention", columns, self.dampings[index][0]),
            (ffn, self.family.down, "ffn", kept.channels, self.dampings[index][1]),
        ):
            weight = dense[f"{name}.weight"]
            if block and len(chosen) < weight.shape[1]:
                block[f"{name}.weight"] = solve(weight, getattr(stats, kind), chosen, damping)
        return attention, ffn

    def reformed(self, index: int) -> tuple[Finished, Finished]:
        """A layer's attention and FFN tensors after the closed-form reform."""
        attention, ffn = self.cut(index, _closed_form)
        stats, kept = self.statistics[index], self.selections[index]
        return same_size(self.family, self.shape, stats, kept, attention), ffn


LayerReform = Callable[[int, Callable[[int], Finished | None]], Finished]
"""(layer index, what is already finished) -> the layer's finished tensors; layers come in order."""

reforms: Registry[Callable[[ReformJob], LayerReform]] = Registry("reform", "compressor.reform")
"""Every last reform by name; a search method says which one it wants."""


def _closed_form(
    weight: torch.Tensor, gram: torch.Tensor, kept: torch.Tensor, damping: float
) -> torch.Tensor:
    return reform(weight, damped(gram, damping), kept)


@reforms.register("none")
def none(job: ReformJob) -> LayerReform:
    """Weights as they were."""
    return lambda i, _: _merge(*job.cut(i, lambda weight, _gram, kept, _damping: weight[:, kept]))


@reforms.register("closed-form")
def closed_form(job: ReformJob) -> LayerReform:
    """Each block by itself, from dense statistics."""
    return lambda i, _: _merge(*job.reformed(i))


@reforms.register("admm")
def paper(job: ReformJob) -> LayerReform:
    """The paper's: each block by itself, ADMM with rho 1 and 30 iterations."""
    return lambda i, _: _merge(*job.cut(i, lambda weight, gram, kept, _damping: admm(weight, gram, kept)))


@reforms.register("sequential")
def sequential(job: ReformJob) -> LayerReform:
    """Block after block, each mending with its output projection what the ones before it left."""
    return _in_order(job, None)


@reforms.register("gauss-newton")
def gauss_newton(job: ReformJob) -> LayerReform:
    """As `sequential`, each block then refined with all of its projections."""
    return _in_order(job, refine_block)


def _in_order(job: ReformJob, refine: Refine | None) -> LayerReform:
    streams = Streams(job.room.copy(job.embedded), job.room.copy(job.embedded), room=job.room)
    at = 0

    def layer(index: int, finished: Callable[[int], Finished | None]) -> Finished:
        nonlocal at
        while at < index:
            done = finished(at)
            if done is None:
                raise UserError(
                    f"layer {at} of the reform is missing from the run directory", "Remove it and run again."
                )
            advance(job.runner.at(at), job.layers[at], done, streams, job.heldout)
            at += 1
        blocks = zip(("attention", "ffn"), job.reformed(index), strict=True)
        attention, ffn = (
            reform_block(job.runner.at(index), kind, job.layers[index], cut, streams, job.heldout, refine)
            for kind, cut in blocks
        )
        at += 1
        return _merge(attention, ffn)

    return layer


def _merge(attention: Finished, ffn: Finished) -> Finished:
    return {**attention, **ffn}
