"""Everything that can be known in seconds, before a weight is read."""

from __future__ import annotations

from typing import NamedTuple

from lathe.artefact.errors import UserError
from lathe.artefact.plan import Plan
from lathe.compressor.agreement.model_checks import check_model
from lathe.compressor.compute.progress import Progress
from lathe.compressor.latency.backend import backends
from lathe.compressor.latency.backends.onnx import laid_out
from lathe.compressor.latency.ends import Ends
from lathe.compressor.latency.measure import LatencyBenchmark
from lathe.compressor.latency.workload import FITTED_DEFAULTS, Workload
from lathe.compressor.model.checkpoint import Checkpoint, open_checkpoint
from lathe.compressor.model.pattern import Pattern
from lathe.compressor.pipeline.checks import (
    check_disk,
    check_output,
    check_texts,
    checked_pattern,
    read_plan,
    width_rules,
)
from lathe.compressor.pipeline.latency_target import with_latency_target
from lathe.compressor.pipeline.memory_estimate import memory_plan
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.pipeline.preflight_result import PreflightResult
from lathe.compressor.pipeline.served_memory import served_memory
from lathe.compressor.search.method import Method
from lathe.compressor.search.method_choice import AUTO, SLOWEST, check_name, chosen_method
from lathe.compressor.search.mixed_space import MixedSpace
from lathe.compressor.search.space import (
    Choices,
    Constraint,
    Space,
    make_space,
    parameter_constraint,
)
from lathe.compressor.vocabulary import cut_vocabulary


def run_preflight(options: CompressOptions, progress: Progress, ends: Ends | None = None) -> PreflightResult:
    """Checks the model, the text, the output and the disk, and that the target can be reached here.

    Args:
        options: What was asked for.
        progress: Is told what is found.
        ends: The latencies of the dense model and the smallest subnet, where they are known.

    Raises:
        UserError: one of them will not do; nothing has been written.
    """
    check_output(options)
    check_name(options.method)
    backend = laid_out(backends.get(options.backend), options.groups, options.several_targets)
    if options.runs and not options.profile:
        backend.versions()  # an engine that is not installed says so
    whole, method = _checked_source(options, progress)
    vocabulary = cut_vocabulary(whole, options.vocabulary, progress) if options.vocabulary else None
    source = vocabulary.source if vocabulary else whole
    allowed = _allowed(options, source)
    choices = allowed.mixed or allowed.space
    workload = _workload(options, source, progress)
    texts = check_texts(options, source, progress)
    memory = memory_plan(options, source)
    benchmark = LatencyBenchmark(
        source, backend, workload, options.threads, progress, options.measure_seconds
    )
    constraints = _constraints(options, source, choices, workload)
    for constraint in constraints:
        _check_floor(constraint, choices)
    found = PreflightResult(
        source,
        allowed.space,
        method,
        benchmark,
        constraints,
        plan=allowed.plan,
        memory=memory,
        texts=texts,
        vocabulary=vocabulary,
        mixed=allowed.mixed,
        pattern=allowed.pattern,
        plans=options.subnets,
    )
    check_disk(options.out, found.disk_bytes)
    _say_what_is_given(options, source, whole, progress)
    return with_latency_target(options, found, ends)


class _Allowed(NamedTuple):
    """The plans that a run may come to: of `mixed`, else of `space`; `plan` alone where it is given."""

    space: Space
    mixed: MixedSpace | None
    pattern: Pattern | None
    plan: Plan | None


def _allowed(options: CompressOptions, source: Checkpoint) -> _Allowed:
    pattern = checked_pattern(options, source)
    rules = width_rules(options, source)
    space = make_space(source.shape, rules, options.ffn_levels)
    mixed = MixedSpace(space, options.block_bits) if options.block_bits else None
    plan = read_plan(options.plan, space, rules, source.shape.experts, mixed) if options.plan else None
    if pattern and not options.targeted:
        plan = plan or source.shape.dense_plan
    return _Allowed(space, mixed, pattern, plan)


def _say_what_is_given(
    options: CompressOptions, source: Checkpoint, whole: Checkpoint, progress: Progress
) -> None:
    progress.say(
        f"{source.name}: {source.family.model_type}, {source.shape.num_layers} layers, "
        f"{whole.shape.parameters(whole.shape.dense_plan) / 1e6:.1f} M parameters"
    )
    if options.block_bits:
        plain = "float32" if options.engine.startswith("onnx") else "the checkpoint's type"
        progress.say(f"  weights: {plain}, 8 or 4 bits by block; --bits 16 keeps {plain}")


def _checked_source(options: CompressOptions, progress: Progress) -> tuple[Checkpoint, Method]:
    """Opens the model and chooses the method, if the model is one that we and the method can compress."""
    source = open_checkpoint(options.model)
    for line in (*source.notes, *check_model(source)):
        progress.warn(line)
    method = chosen_method(options.method, source.shape, options.refinements)
    method.check(source.shape)
    if options.method == AUTO and method.name != SLOWEST:
        progress.say(
            f"  method: {method.name}, as the model is large (--method {SLOWEST} is slower and better)"
        )
    return source, method


def _workload(options: CompressOptions, source: Checkpoint, progress: Progress) -> Workload:
    """Returns what is timed; warns where a default was reduced to the model's positions."""
    found = options.workload_on(source.positions)
    if options.runs or options.target_memory is not None:
        for name in sorted(FITTED_DEFAULTS):
            usual, now = getattr(options.workload, name), getattr(found, name)
            if now != usual:
                progress.warn(
                    f"--{name.replace('_', '-')} is {now}, not {usual}: the model has {source.positions} "
                    "positions"
                )
    return found


def _constraints(
    options: CompressOptions, source: Checkpoint, space: Choices, workload: Workload
) -> list[Constraint]:
    constraints = []
    if options.keep is not None:
        constraints.append(parameter_constraint(space, source.shape, options.keep))
    if options.target_memory is not None:
        tokens = workload.batch_size * workload.context
        constraints.append(served_memory(options, source, space, options.target_memory, tokens))
    return constraints


def _check_floor(constraint: Constraint, space: Choices) -> None:
    floor = constraint.cost(space.smallest)
    if floor > constraint.limit:
        raise UserError(
            f"the {constraint.name} target of {constraint.limit:,.0f} {constraint.unit} is below the floor: "
            f"the smallest subnet has {floor:,.0f}",
            f"Ask for at least {floor:,.0f} {constraint.unit}.",
        )
