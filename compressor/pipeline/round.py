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
from lathe.compressor.model.embedding import with_table
from lathe.compressor.model.names import EMBEDDING
from lathe.compressor.model.rounded_tensors import Rounded, from_tensors, to_tensors
from lathe.compressor.model.rounding import QuantizedMatrix
from lathe.compressor.pipeline.calibrate import CalibrationResult
from lathe.compressor.pipeline.latency_loop import Iteration
from lathe.compressor.pipeline.reconstruct import block_tokens, finished_layer, stored_layer, subnet_of
from lathe.compressor.pipeline.run_context import RunContext
from lathe.compressor.pipeline.run_directory import Saved, Tensors, key
from lathe.compressor.pipeline.wider_subnet import WiderSubnet, taken_over
from lathe.compressor.reconstruction.kl_passes import KLProblem
from lathe.compressor.reconstruction.output_gradients import TOKENS, output_gradients
from lathe.compressor.reconstruction.rounded_block import AS_STORED, Grams
from lathe.compressor.reconstruction.rounded_head import EXACT_BITS, RoundedTable, round_head
from lathe.compressor.reconstruction.rounding_pass import RoundingPass

HELDOUT_TOKENS = 2048
"""The most tokens that a damping is chosen on."""
_MOST_TOKENS = 16_384


def rounding_tokens(shape: ModelShape) -> int:
    """Returns the most tokens that layers are rounded on: by the widest projection, within bounds."""
    return min(_MOST_TOKENS, block_tokens(shape))


def round_layers(
    context: RunContext,
    calibration: CalibrationResult,
    iteration: Iteration,
    name: str,
    wider: WiderSubnet | None = None,
) -> str | None:
    """Rounds every finished layer, and a head of few bits, for the graph that the run exports.

    What it makes is in the run directory.

    Args:
        context: The run.
        calibration: The text.
        iteration: The plan.
        name: The name of the finished layers.
        wider: The next wider subnet of the family, whose rounded matrices stay where the finished ones did.

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
    files = [layers.file_name(index) for index in range(len(plan))]
    if _by_gradients(context, plan) and not all(map(context.run_dir.has, files)):
        _store_gradients(context, calibration, name)
    opened = cache(partial(_opened, context, calibration, iteration, plan, name, wider))
    served = cache(lambda: _with_head(opened(), layers.head()))
    with context.progress.stage("round: layers", head + len(plan)) as bar:
        if head:
            context.run_dir.saved(layers.head_file, lambda: _rounded_head(opened()))
            bar.advance()
        for index, file in enumerate(files):
            context.run_dir.saved(file, partial(_rounded, served, layers, index))
            bar.advance()
    context.run_dir.forget(_gradients_of(name))
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


def _by_gradients(context: RunContext, plan: Plan) -> bool:
    """Tells whether layers are rounded by gradients, too; those of 8 bits alone lose next to nothing.

    Feedback over rows would fill the zeros of a pattern.
    """
    few = any(0 < layer.bits(kind) < EXACT_BITS for layer in plan for kind in BLOCK_KINDS)
    return few and context.preflight.method.by_gradients and not context.options.pattern


def _store_gradients(context: RunContext, calibration: CalibrationResult, name: str) -> None:
    """Keeps what gradients at the outputs of the finished layers' matrices are like, in the run directory."""
    run_dir, count = context.run_dir, len(calibration.model.layers)
    files = [f"{_gradients_of(name)}-{index:03d}" for index in range(count)]
    if all(map(run_dir.has, files)):
        return
    windows, heldout = calibration.sample(math.ceil(TOKENS / calibration.windows.shape[1]), 0)
    subnet = context.store.load(count, partial(stored_layer, context, name))
    problem = KLProblem(calibration.model, subnet, windows, heldout, context.store)
    with context.progress.stage("round: gradients", count) as bar:
        found = output_gradients(problem, context.workers)
        for file, grams in zip(reversed(files), found, strict=True):
            run_dir.saved(file, partial(dict, grams))
            bar.advance()


def _gradients_of(name: str) -> str:
    """Returns what the layers' gradients are called in the run directory."""
    return f"gradients-{name}"


def _opened(
    context: RunContext,
    calibration: CalibrationResult,
    iteration: Iteration,
    plan: Plan,
    name: str,
    wider: WiderSubnet | None,
) -> RoundingPass:
    made = _rounding_pass(context, calibration, plan, name)
    return replace(made, known=_known(context, iteration, name, wider)) if wider else made


def _rounding_pass(
    context: RunContext, calibration: CalibrationResult, plan: Plan, name: str
) -> RoundingPass:
    store, method = context.store, context.preflight.method

    def gradients(index: int) -> Grams:
        if not _by_gradients(context, plan):
            return AS_STORED
        file = context.run_dir.path / f"{_gradients_of(name)}-{index:03d}.safetensors"
        return store.here(Saved(file).all())

    tokens, length = rounding_tokens(context.preflight.source.shape), calibration.windows.shape[1]
    windows, heldout = calibration.sample(math.ceil(tokens / length), math.ceil(HELDOUT_TOKENS / length))
    return RoundingPass(
        subnet_of(context, calibration, name),
        plan,
        windows,
        heldout,
        store,
        method.bfloat16,
        groups=context.options.groups,
        gradients=gradients,
        keep_zeros=context.options.pattern is not None,
    )


def _known(
    context: RunContext, iteration: Iteration, name: str, wider: WiderSubnet
) -> Callable[[int], Rounded]:
    """Returns what gives the rounded matrices of a layer that stay, by name."""
    run_dir = context.run_dir
    layers = RoundedLayers(run_dir.path.absolute(), wider.rounded or "", context.store)
    same = taken_over(
        partial(finished_layer, run_dir, name), partial(finished_layer, run_dir, wider.finished)
    )
    return wider.matrices(layers, iteration.selections, context.preflight.source.shape.head_dim, same)


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
