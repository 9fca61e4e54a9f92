"""Reconstruction: from a plan to the finished tensors of every layer, kept in the run directory."""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path

import torch

from lathe.artefact.errors import UserError
from lathe.artefact.plan import ModelShape
from lathe.compressor.calibration.selfgen import continue_text
from lathe.compressor.compute.array_store import ArrayStore
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.decoder import LayeredModel
from lathe.compressor.pipeline.calibrate import CalibrationResult
from lathe.compressor.pipeline.latency_loop import Iteration
from lathe.compressor.pipeline.run_context import RunContext
from lathe.compressor.pipeline.run_directory import RunDirectory, Saved, key
from lathe.compressor.pipeline.wider_subnet import WiderSubnet, taken_over
from lathe.compressor.reconstruction.kl_passes import KLProblem
from lathe.compressor.reconstruction.kl_refinement import ITERATIONS, WORTHWHILE, ModelStep, refine_model
from lathe.compressor.reconstruction.kl_steps import count_steps, refine_in_steps
from lathe.compressor.reconstruction.registry import Finished, ReconstructionTask, reconstructions
from lathe.compressor.reconstruction.sequential import DAMPINGS

_BLOCK_TOKENS, _TOKENS_PER_COLUMN = 8192, 6
_OUTPUTS_ONLY = "sequential"
"""The reconstruction that changes output projections alone."""


def reconstruct(
    context: RunContext,
    calibration: CalibrationResult,
    iteration: Iteration,
    wider: WiderSubnet | None = None,
) -> str:
    """Finishes every layer's tensors in the run directory; returns the name that they are under.

    With the next wider subnet of a family, its input matrices stay, and output projections alone are solved
    for, but for those that stay, too.
    """
    name = reconstruct_layers(context, calibration, iteration, wider)
    if iteration.plan.unrounded == context.preflight.source.shape.dense_plan:
        return name
    return refine_rounds(context, calibration, name, wider=wider)


def reconstruct_layers(
    context: RunContext,
    calibration: CalibrationResult,
    iteration: Iteration,
    wider: WiderSubnet | None = None,
) -> str:
    """Does the part of `reconstruct` that goes from layer to layer; returns the name of the layers."""
    preflight = context.preflight
    name = key(
        calibration.key,
        preflight.method.reconstruction,
        preflight.method.on_samples,
        [s.shape for s in iteration.selections],
        [[t.tolist() for t in (s.kv_heads, s.query_heads, s.channels)] for s in iteration.selections],
        *([wider.finished] if wider else []),
    )
    _finish_layers(context, calibration, iteration, name, wider)
    return name


def refine_rounds(
    context: RunContext,
    calibration: CalibrationResult,
    name: str,
    keep_zeros: bool = False,
    wider: WiderSubnet | None = None,
) -> str:
    """Refines the whole subnet, round after round, in the run directory.

    Args:
        context: The run.
        calibration: The text.
        name: The name of the finished layers.
        keep_zeros: Whether weights that are zero stay zero.
        wider: The next wider subnet of a family: output projections alone are refined, and of these none that
            is the wider subnet's.

    Returns:
        The name of the refined layers; `name` where no round was worth it.
    """
    for number in range(context.preflight.method.whole_rounds):
        refined = f"{name}-{number}"
        refine = partial(_refine, context, calibration, number, name, refined, keep_zeros, wider)
        kl = context.run_dir.json(f"whole-{refined}", refine)
        if kl["after"] < kl["before"]:
            name = refined
        if kl["after"] > WORTHWHILE * kl["before"]:
            break
    return name


def _finish_layers(
    context: RunContext,
    calibration: CalibrationResult,
    iteration: Iteration,
    name: str,
    wider: WiderSubnet | None,
) -> None:
    """Reconstructs the layers one by one; those that are in the run directory already are kept."""
    preflight, run_dir, damping = context.preflight, context.run_dir, context.options.damping
    windows, heldout = calibration.windows, calibration.heldout
    if preflight.method.on_samples:
        tokens = block_tokens(preflight.source.shape)
        windows, heldout = calibration.sample(math.ceil(tokens / windows.shape[1]))
    task = ReconstructionTask(
        preflight.source.shape,
        calibration.model,
        iteration.selections,
        calibration.statistics,
        calibration.dampings,
        windows,
        heldout,
        context.store,
        context.workers,
        preflight.method.bfloat16,
        DAMPINGS if damping is None else (damping,),
    )
    pruned = iteration.plan.unrounded != preflight.source.shape.dense_plan
    how = preflight.method.reconstruction if pruned else "none"
    if wider:
        known = partial(finished_layer, run_dir, wider.finished)
        kept, head_dim = iteration.selections, preflight.source.shape.head_dim
        given = wider.matrices(known, kept, head_dim, wider.equal_outputs(kept))
        task, how = replace(task, given=lru_cache(1)(given)), _OUTPUTS_ONLY
    layer = reconstructions.get(how)(task)
    finished = FinishedLayers(run_dir.path.absolute(), name, context.store)
    count = len(iteration.selections)
    with context.progress.stage("reconstruct: layers", count) as bar:
        for index in range(count):
            run_dir.saved(f"reformed-{name}-{index:03d}", partial(layer, index, finished))
            bar.advance()


def block_tokens(shape: ModelShape) -> int:
    """Returns the number of tokens that single blocks are solved on, where that is a part of the text.

    A projection with n inputs needs some multiple of n tokens; more of them gain less than they take.
    """
    return max(_BLOCK_TOKENS, _TOKENS_PER_COLUMN * shape.widest_output_projection)


def _refine(
    context: RunContext,
    calibration: CalibrationResult,
    number: int,
    name: str,
    refined: str,
    keep_zeros: bool,
    wider: WiderSubnet | None,
) -> dict[str, float]:
    """Refines the whole subnet once, from the layers called `name` to those called `refined`.

    Returns:
        KL(dense || subnet) on the held-out windows, "before" and "after".
    """
    run_dir, count = context.run_dir, len(calibration.model.layers)
    run_dir.forget(f"reformed-{refined}")  # left by a killed round, perhaps of another device
    windows = _windows(context, calibration, number)
    in_steps = context.preflight.method.in_steps
    steps = count_steps(windows, calibration.heldout) if in_steps else ITERATIONS
    with context.progress.stage("reconstruct: the whole subnet", steps + 1) as bar:
        problem = replace(
            _divergence(context, calibration, name),
            keep_zeros=keep_zeros,
            outputs_only=wider is not None,
            fixed=_fixed(context, name, wider) if wider else (),
        )
        if number:
            problem = replace(problem, windows=windows, dense=None)
        refine = refine_in_steps if in_steps else refine_model
        layers, before, after = refine(problem, bar.advance, context.workers)
        for index in range(count):
            run_dir.saved(f"reformed-{refined}-{index:03d}", partial(_item, layers, index))
    return {"before": before, "after": after}


def _fixed(context: RunContext, name: str, wider: WiderSubnet) -> list[Set[str]]:
    """Returns the names of each layer's output projections that are those of the next wider subnet."""
    names = taken_over(*(partial(finished_layer, context.run_dir, one) for one in (name, wider.finished)))
    return [names(index) for index in range(context.preflight.source.shape.num_layers)]


def _item(layers: Sequence[Weights], index: int) -> Finished:
    return dict(layers[index])


def _windows(context: RunContext, calibration: CalibrationResult, number: int) -> torch.Tensor:
    """Returns the [n, T] windows of a round.

    The first round reads the calibration text, every later one as much new text that the dense model writes
    after it. The held-out windows are the same for all.
    """
    windows, heldout = calibration.windows, calibration.heldout
    if number == 0:
        return windows
    written = context.run_dir.tensors(
        f"written-{calibration.key}-{number}",
        lambda: {
            "windows": continue_text(
                context.preflight.source,
                windows[~heldout],
                seed=number,
                progress=context.progress,
                store=context.writing_store,
                workers=context.workers,
            )
        },
    )
    return windows.masked_scatter(~heldout[:, None], written["windows"])


@dataclass(frozen=True)
class FinishedLayers:
    """Finished layers by index, read from a run directory to the device of a store."""

    path: Path
    name: str
    store: ArrayStore = field(default_factory=ArrayStore)

    def __call__(self, index: int) -> Finished:
        """Reads a layer.

        Raises:
            UserError: it is not there.
        """
        file = self.path / f"reformed-{self.name}-{index:03d}.safetensors"
        if not file.exists():
            raise UserError(f"{self.path} lost a finished layer", "Remove it and run again.")
        return dict(self.store.here(Saved(file).all()))


def heldout_divergence(context: RunContext, calibration: CalibrationResult, name: str) -> float:
    """Returns KL(dense || finished layers) in nats per token of the held-out windows."""
    problem = _divergence(context, calibration, name)
    step = ModelStep(problem.some(torch.nonzero(calibration.heldout)[:, 0]), context.workers)
    return step.error(step.start)


def _divergence(context: RunContext, calibration: CalibrationResult, name: str) -> KLProblem:
    """Returns KL(dense || finished layers) on the calibration text."""
    count, store = len(calibration.model.layers), context.store
    return KLProblem(
        calibration.model,
        store.load(count, partial(finished_layer, context.run_dir, name)),
        calibration.windows,
        calibration.heldout,
        store,
        context.preflight.method.bfloat16,
        calibration.last,
    )


def finished_layer(run_dir: RunDirectory, name: str, index: int) -> Finished:
    """Reads a finished layer to the machine's memory."""
    return FinishedLayers(run_dir.path, name)(index)


def subnet_of(context: RunContext, calibration: CalibrationResult, name: str) -> LayeredModel:
    """Returns the finished layers as a model, with the values that its checkpoint has."""
    layers = context.store.load(len(calibration.model.layers), partial(stored_layer, context, name))
    return replace(calibration.model, layers=layers)


def stored_layer(context: RunContext, name: str, index: int) -> Finished:
    """Reads a finished layer with the values that its checkpoint has, float32."""
    layer, dtype = finished_layer(context.run_dir, name, index), context.preflight.source.dtype
    return {tensor: value.to(dtype).float() for tensor, value in layer.items()}
