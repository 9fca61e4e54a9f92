"""Rounding: from a finished subnet to what a graph of quantized weights is made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path

from lathe.artefact.plan import BLOCK_KINDS, ModelShape, Plan
from lathe.compressor.compute.array_store import ArrayStore
from lathe.compressor.export.base import exporters
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.embedding import with_table
from lathe.compressor.model.names import EMBEDDING
from lathe.compressor.model.rounded_tensors import Rounded, from_tensors, to_tensors
from lathe.compressor.model.rounding import QuantizedMatrix
from lathe.compressor.pipeline.calibrate import CalibrationResult
from lathe.compressor.pipeline.latency_loop import Iteration
from lathe.compressor.pipeline.reconstruct import block_tokens, finished_layer
from lathe.compressor.pipeline.run_context import RunContext
from lathe.compressor.pipeline.run_directory import Saved, Tensors, key
from lathe.compressor.reconstruction.rounded_head import EXACT_BITS, RoundedTable, round_head
from lathe.compressor.reconstruction.rounding_pass import RoundingPass

HELDOUT_TOKENS = 2048
"""The most tokens that a damping is chosen on."""
_MOST_TOKENS = 16_384


def rounding_tokens(shape: ModelShape) -> int:
    """Returns the most tokens that layers are rounded on: by the widest projection, within bounds."""
    return min(_MOST_TOKENS, block_tokens(shape))


def round_layers(
    context: RunContext, calibration: CalibrationResult, iteration: Iteration, name: str
) -> str | None:
    """Rounds every finished layer, and a head of few bits, for the graph that the run exports.

    What it makes is in the run directory.

    Args:
        context: The run.
        calibration: The text.
        iteration: The plan.
        name: The name of the finished layers.

    Returns:
        The name that the rounded layers are under; None where there is nothing to round on text.
    """
    graph = context.options.graph
    plan = exporters.get(graph).with_bits(iteration.plan) if graph else iteration.plan.unrounded
    head = 0 < plan.head_bits < EXACT_BITS
    if not head and not any(layer.bits(kind) for layer in plan for kind in BLOCK_KINDS):
        return None
    layers = RoundedLayers(
        context.run_dir.path.absolute(),
        f"{name}-{key(plan.to_json(), HELDOUT_TOKENS, str(context.options.groups))}",
        context.store,
    )

    @cache
    def opened() -> RoundingPass:
        return _rounding_pass(context, calibration, plan, name)

    @cache
    def served() -> RoundingPass:
        return _with_head(opened(), layers.head())

    with context.progress.stage("round: layers", head + len(plan)) as bar:
        if head:
            context.run_dir.saved(layers.head_file, lambda: _rounded_head(opened()))
            bar.advance()
        for index in range(len(plan)):
            context.run_dir.saved(layers.file_name(index), partial(_rounded, served, layers, index))
            bar.advance()
    return layers.name


@dataclass(frozen=True)
class RoundedLayers:
    """Rounded layers by index, and the head, read from a run directory to the device of a store."""

    path: Path
    name: str
    store: ArrayStore = field(default_factory=ArrayStore)

    def file_name(self, index: int) -> str:
        """Returns what the tensors of a layer are called in the run directory."""
        return f"rounded-{self.name}-{index:03d}"

    @property
    def head_file(self) -> str:
        """Returns what the tables of embedding and head are called in the run directory."""
        return f"rounded-{self.name}-head"

    def __call__(self, index: int) -> Rounded:
        """Reads a layer."""
        return self._read(self.file_name(index))

    def head(self) -> Rounded:
        """Reads the tables of embedding and head by checkpoint name; none where text did not round them."""
        there = (self.path / f"{self.head_file}.safetensors").exists()
        return self._read(self.head_file) if there else {}

    def _read(self, file: str) -> Rounded:
        saved = Saved(self.path / f"{file}.safetensors")
        return from_tensors(self.store.here(saved.all()))


def _rounding_pass(
    context: RunContext, calibration: CalibrationResult, plan: Plan, name: str
) -> RoundingPass:
    source, store, length = context.preflight.source, context.store, calibration.windows.shape[1]

    def stored(index: int) -> Weights:
        layer = finished_layer(context.run_dir, name, index)
        return {tensor: value.to(source.dtype).float() for tensor, value in layer.items()}

    tokens = rounding_tokens(source.shape)
    windows, heldout = calibration.sample(math.ceil(tokens / length), math.ceil(HELDOUT_TOKENS / length))
    model = replace(calibration.model, layers=store.load(len(plan), stored))
    bfloat16, groups = context.preflight.method.bfloat16, context.options.groups
    return RoundingPass(model, plan, windows, heldout, store, bfloat16, groups=groups)


def _rounded_head(rounding: RoundingPass) -> Tensors:
    windows, bits = rounding.windows[~rounding.heldout], rounding.plan.head_bits
    tables = round_head(rounding.model, windows, bits, rounding.store, rounding.bfloat16, rounding.groups)
    return to_tensors({**tables})


def _with_head(rounding: RoundingPass, tables: Rounded) -> RoundingPass:
    """Returns the pass of the subnet whose embedding is rounded."""
    table = tables.get(f"{EMBEDDING}.weight")
    if not isinstance(table, QuantizedMatrix):
        return rounding
    return replace(rounding, embedding=with_table(rounding.model.embedding, RoundedTable(table)))


def _rounded(opened: Callable[[], RoundingPass], layers: RoundedLayers, index: int) -> Tensors:
    return to_tensors(opened().layer(index, layers))
