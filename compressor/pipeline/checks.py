"""Checks before a weight is read: output, disk, texts and a given plan."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lathe.artefact.disk_space import free_space
from lathe.artefact.errors import UserError
from lathe.artefact.family import is_family
from lathe.artefact.manifest import MANIFEST
from lathe.artefact.onnx.minimum_version import INT8_CACHE, check_version
from lathe.artefact.plan import LayerShape, Plan
from lathe.artefact.width_rules import WidthRules
from lathe.compressor.calibration.documents import ReadingLog
from lathe.compressor.calibration.sources import parts_of
from lathe.compressor.calibration.tokens import (
    SELF,
    UNREAD,
    CalibrationText,
    evenly_spaced,
    read_calibration,
    token_windows,
    window_length,
)
from lathe.compressor.export import destinations, exporters, rules_of
from lathe.compressor.export.base import Destination
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.model.pattern import Pattern
from lathe.compressor.pipeline.domain_texts import read_domains, text_of_all
from lathe.compressor.pipeline.option_values import WINDOW
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.search.mixed_space import MixedSpace
from lathe.compressor.search.space import Space

_EVALUATION_WINDOWS = 32


@dataclass(frozen=True)
class Texts:
    """The texts that a run reads.

    Attributes:
        calibration: The calibration text.
        evaluation: Windows [n, T]; None where the held-out calibration text is meant.
        domains: The texts of the domains, by their names.
    """

    calibration: CalibrationText = UNREAD
    evaluation: torch.Tensor | None = None
    domains: Mapping[str, CalibrationText] = field(default_factory=dict)


def check_output(options: CompressOptions) -> None:
    """Refuses an output that exists (unless asked to replace it) or cannot be written."""
    out = options.out
    if out.name in ("", ".."):
        raise UserError(f"--output {out} has no name of its own", "Choose another --output.")
    replaceable = ((out / MANIFEST).is_file() or is_family(out)) and not options.front
    if out.exists() and not replaceable:
        raise UserError(f"{out} exists, and is not an artefact to replace", "Choose another --output.")
    if out.exists() and not options.overwrite:
        raise UserError(f"{out} exists", "Choose another --output, or give --overwrite to replace it.")
    parent = out.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"cannot write {out}: {parent} is not a writable directory")


def width_rules(options: CompressOptions, source: Checkpoint) -> WidthRules:
    """Returns the widths that everything allows which the artefact is exported to or served by.

    Raises:
        UserError: one of them does not take the model.
    """
    chosen = [*map(exporters.get, options.exports), *map(destinations.get, options.destinations)]
    for destination in chosen:
        destination.check(source)
        destination.check_uneven(source)
    if options.int8_cache:
        check_version(INT8_CACHE, f"the graph of {source.name} with an int8 KV cache")
    if options.weight_pattern:
        chosen.append(Destination(multiple=options.weight_pattern.group))
    return rules_of(chosen, source.shape.head_dim, options.tensor_parallel)


def checked_pattern(options: CompressOptions, source: Checkpoint) -> Pattern | None:
    """Returns the pattern that is asked for, if any.

    Raises:
        UserError: the model has experts, or a matrix whose rows its groups do not fill.
    """
    pattern = options.weight_pattern
    if pattern:
        if source.shape.experts:
            raise UserError(f"{source.name} has experts, which --pattern does not take", "Leave it out.")
        pattern.check(source.shape, source.shape.dense_plan, source.name)
    return pattern


def check_texts(options: CompressOptions, source: Checkpoint, progress: ReadingLog) -> Texts:
    """Reads the texts of a run.

    Raises:
        UserError: a text lies where the run writes, or is too short.
    """
    for text in (options.calibration, *(domain.text for domain in options.domains)):
        if text != SELF:
            _check_apart(options.out, text)
    domains = read_domains(options, source, progress) if options.domains else {}
    if domains and options.calibration == SELF:
        return Texts(text_of_all(domains), domains=domains)
    calibration = read_calibration(
        source,
        options.calibration,
        tokens=options.calibration_tokens,
        window=WINDOW,
        seed=options.seed,
        log=progress,
    )
    calibration.amount.check(options.calibration)
    for line in calibration.amount.shortages(options.calibration, source.shape.widest_output_projection):
        progress.warn(line)
    return Texts(calibration, _evaluation(options.evaluation, source, progress), domains)


def _check_apart(out: Path, text: str) -> None:
    """Refuses an output in a folder of text."""
    for part in map(Path, parts_of(text)):
        if part.is_dir() and out.resolve().is_relative_to(part.resolve()):
            raise UserError(
                f"--output {out} lies in the folder of the calibration text {part}",
                "Choose another --output.",
            )


def _evaluation(text: str | None, source: Checkpoint, progress: ReadingLog) -> torch.Tensor | None:
    """Returns windows from all over a text."""
    if text is None:
        return None
    window = window_length(source, WINDOW)
    windows = token_windows(source, text, window, progress, tokens=_EVALUATION_WINDOWS * window)
    if not len(windows):
        raise UserError(f"{text} is shorter than one window of {window} tokens", "Give more text.")
    if len(windows) < _EVALUATION_WINDOWS:
        progress.warn(
            f"the evaluation text {text} fills {len(windows)} of {_EVALUATION_WINDOWS} windows of {window} "
            "tokens: perplexities of so little text are uncertain"
        )
    return evenly_spaced(windows, _EVALUATION_WINDOWS)


def check_disk(out: Path, needed: int) -> None:
    """Refuses a disk with less free space, in bytes, than a run may need; what an earlier run left counts."""
    parent, free = free_space(out.absolute().parent)
    left = out.with_name(out.name + ".run").rglob("*")
    free += sum(file.stat().st_size for file in left if file.is_file())
    if free < needed:
        raise UserError(
            f"{parent} has {free / 2**20:.0f} MiB free; this run may need {needed / 2**20:.0f} MiB",
            "Free some space, or use another disk: --output, and for `lathe plan` $TMPDIR.",
        )


def disk_needed(source: Checkpoint, on_disk: bool, rounds: int, layers: int = 0) -> int:
    """Returns the bytes that a run of one plan may hold on disk.

    These are the checkpoint, the graph, and the run directory with its statistics and the layers after each
    reconstruction. A method with whole-model rounds adds their vectors and factors, where memory does not
    hold them, or the gradients that few bits may be rounded by.

    Args:
        source: The dense model.
        on_disk: Whether memory does not hold them.
        rounds: The number of whole-model rounds.
        layers: How often all layers are kept besides.
    """
    shape = source.shape
    weights, reads = shape.weight_bytes(shape.dense_plan, 4), shape.layer.query_heads * shape.head_dim
    squares = shape.num_layers * (max(1, shape.experts) * shape.layer.ffn**2 + reads**2)
    statistics = (8 if on_disk else 2 * 8) * squares
    step = 7 * weights + 3 * 4 * squares if on_disk else 2 * 4 * squares
    return (3 + rounds + layers) * weights + statistics + (step if rounds else 0) + 64 * 2**20


def read_plan(
    path: Path, space: Space, rules: WidthRules, experts: int = 0, mixed: MixedSpace | None = None
) -> Plan:
    """Reads a plan that follows the width rules and consists of the space's levels.

    Args:
        path: The plan's file.
        space: The levels.
        rules: The width rules.
        experts: The number of experts in a layer where the plan does not have one.
        mixed: The bits that weights may have, where the plan may round them.

    Raises:
        UserError: it cannot be read, or does not fit.
    """
    plan = Plan.load(path).with_experts(experts)
    if len(plan) != space.layers:
        raise UserError(f"{path} has {len(plan)} layers; the model has {space.layers}")
    rules.check(plan, str(path))
    for index, layer in enumerate(plan):
        _check_levels(path, index, layer, space)
    if plan.rounded and mixed is None:
        raise UserError(f"the plan {path} rounds weights", "Give --bits auto, which writes them so.")
    if not any(layer.kv_heads for layer in plan):
        raise UserError(f"{path} has no attention block", "Keep one: it carries positions.")
    return plan


def _check_levels(path: Path, index: int, layer: LayerShape, space: Space) -> None:
    if (layer.query_heads, layer.kv_heads) not in space.attention:
        heads = ", ".join(f"{q}/{kv}" for q, kv in space.attention)
        raise UserError(
            f"{path}: layer {index} has {layer.query_heads} query heads over {layer.kv_heads} KV heads",
            f"Choose of {heads}.",
        )
    if layer.width not in space.ffn:
        has = f"{layer.experts} experts of {layer.ffn}" if layer.experts else layer.ffn
        raise UserError(
            f"{path}: layer {index} has {has} FFN channels",
            f"Choose of {', '.join(map(str, space.ffn))}.",
        )
