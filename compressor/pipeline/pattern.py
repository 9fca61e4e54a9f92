"""Patterns: from a finished subnet to one whose weights have an N:M pattern."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from lathe.artefact.errors import UserError
from lathe.compressor.export.artefact import export_of_artefact
from lathe.compressor.model.pattern import Pattern
from lathe.compressor.model.rounded_tensors import dequantized
from lathe.compressor.pipeline.calibrate import CalibrationResult
from lathe.compressor.pipeline.latency_loop import Iteration
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.pipeline.reconstruct import (
    FinishedLayers,
    block_tokens,
    refine_rounds,
    subnet_of,
)
from lathe.compressor.pipeline.run_context import RunContext
from lathe.compressor.pipeline.run_directory import Tensors, key
from lathe.compressor.reconstruction.patterns.block import PatternBlocks
from lathe.compressor.reconstruction.patterns.registry import pattern_methods
from lathe.compressor.reconstruction.rounding_pass import RoundingPass


def prune_to_pattern(
    context: RunContext, calibration: CalibrationResult, iteration: Iteration, name: str
) -> str:
    """Prunes every finished layer to the pattern that is asked for, if one is.

    Args:
        context: The run.
        calibration: The text.
        iteration: The plan.
        name: The name of the finished layers in the run directory.

    Returns:
        The name that the pruned layers are under there.
    """
    pattern = context.preflight.pattern
    if pattern is None:
        return name
    method = pattern_methods.get(context.options.pattern_rule)
    found = f"{name}-{key(str(pattern), context.options.pattern_rule)}"
    blocks = PatternBlocks(pattern, method, context.preflight.source.dtype)
    pruned = FinishedLayers(context.run_dir.path.absolute(), found, context.store)

    @cache
    def opened() -> RoundingPass:
        return _pattern_pass(context, calibration, iteration, name, blocks)

    with context.progress.stage(f"prune to {pattern}: layers", len(iteration.plan)) as bar:
        for index in range(len(iteration.plan)):
            context.run_dir.saved(f"reformed-{found}-{index:03d}", partial(_pruned, opened, pruned, index))
            bar.advance()
    return refine_rounds(context, calibration, found, keep_zeros=True) if method.corrects else found


def manifest_facts(options: CompressOptions) -> dict[str, Any]:
    """Returns what the manifest says of a pattern, where there is one."""
    return {"pattern": str(options.weight_pattern)} if options.pattern else {}


def share_of_zeros(artefact: Path, pattern: Pattern) -> float:
    """Returns the share of zeros in the matrices of a checkpoint's layers.

    Raises:
        UserError: a group has too few.
    """
    source, zeros, weights = export_of_artefact(artefact).source, 0, 0
    matrices = [n for n, entry in source.index.items() if ".layers." in n and len(entry.shape) == 2]
    for name in matrices:
        kept = source.tensor(name).unflatten(1, (-1, pattern.group)) != 0
        if int(kept.sum(-1).max()) > pattern.kept:
            raise UserError(f"{name} of the reloaded checkpoint does not have the pattern {pattern}")
        zeros, weights = zeros + int((~kept).sum()), weights + kept.numel()
    return zeros / weights


def _pattern_pass(
    context: RunContext,
    calibration: CalibrationResult,
    iteration: Iteration,
    name: str,
    blocks: PatternBlocks,
) -> RoundingPass:
    windows, heldout = calibration.windows, calibration.heldout
    if context.preflight.method.on_samples:
        tokens = block_tokens(context.preflight.source.shape)
        windows, heldout = calibration.sample(math.ceil(tokens / windows.shape[1]))
    return RoundingPass(
        subnet_of(context, calibration, name),
        iteration.plan.unrounded,
        windows,
        heldout,
        context.store,
        context.preflight.method.bfloat16,
        method=lambda _bits: blocks,
    )


def _pruned(opened: Callable[[], RoundingPass], pruned: FinishedLayers, index: int) -> Tensors:
    text = opened()
    found = text.layer(index, lambda below: {**pruned(below)})
    return {**text.model.layers[index], **dequantized(found)}
