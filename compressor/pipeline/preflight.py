"""Everything that can be known in seconds, before a weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lathe.artefact.errors import UserError
from lathe.artefact.fingerprint import fingerprint
from lathe.artefact.plan import Plan
from lathe.artefact.report_format import PruningLimit
from lathe.compressor.agreement.model_checks import check_model
from lathe.compressor.compute.progress import Progress
from lathe.compressor.latency.backend import backends, versions_here
from lathe.compressor.latency.backends.onnx import laid_out
from lathe.compressor.latency.ends import Ends
from lathe.compressor.latency.limit import pruning_limit
from lathe.compressor.latency.measure import LatencyBenchmark
from lathe.compressor.latency.profile import Profile
from lathe.compressor.latency.table import LatencyTable
from lathe.compressor.latency.workload import FITTED_DEFAULTS, Workload
from lathe.compressor.model.checkpoint import Checkpoint, open_checkpoint
from lathe.compressor.model.pattern import Pattern
from lathe.compressor.pipeline.checks import (
    Texts,
    check_disk,
    check_output,
    check_texts,
    checked_pattern,
    disk_needed,
    read_plan,
    width_rules,
)
from lathe.compressor.pipeline.memory_estimate import MemoryPlan, memory_plan
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.pipeline.served_memory import served_memory
from lathe.compressor.pipeline.vocabulary import vocabulary_rows
from lathe.compressor.report.wording import limit_of_pruning
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
from lathe.compressor.vocabulary import CutVocabulary, cut_vocabulary

_FLOOR_MARGIN = 1.1


@dataclass(frozen=True)
class PreflightResult:
    """The result of preflight.

    Attributes:
        source: The dense model's checkpoint, with the vocabulary that is kept.
        space: The widths that plans are made of.
        pattern: What weights are pruned to, if that is asked for.
        mixed: The widths with the bits that weights may be rounded to, where the search chooses those.
        method: The search and what belongs to it.
        benchmark: Times plans of the model.
        constraints: The targets besides latency.
        ends: The latencies of the dense model and the smallest subnet, timed quickly or from the profile.
        provisional_target_ms: The latency target; a speed-up is taken of the dense model.
        table: The profile's latency table, if a profile was given.
        on_this_machine: Whether the target is of this machine, so that the artefact can be timed.
        plan: The plan that was given, if one was.
        memory: What the run will need.
        texts: What it calibrates and is evaluated on.
        vocabulary: What is kept of the vocabulary; None where it stays whole.
        plans: The number of subnets that are made.
    """

    source: Checkpoint
    space: Space
    method: Method
    benchmark: LatencyBenchmark
    constraints: list[Constraint]
    ends: Ends | None = None
    provisional_target_ms: float | None = None
    table: LatencyTable | None = None
    on_this_machine: bool = True
    plan: Plan | None = None
    memory: MemoryPlan = field(kw_only=True)
    texts: Texts = field(default_factory=Texts, kw_only=True)
    vocabulary: CutVocabulary | None = field(default=None, kw_only=True)
    mixed: MixedSpace | None = field(default=None, kw_only=True)
    pattern: Pattern | None = field(default=None, kw_only=True)
    plans: int = field(default=1, kw_only=True)

    @property
    def choices(self) -> Choices:
        """The levels that plans are made of: widths, with bits where the search chooses those."""
        return self.mixed or self.space

    @property
    def nested(self) -> bool:
        """True if several subnets are made, each of which contains the next."""
        return self.plans > 1 and not self.texts.domains

    @property
    def whole(self) -> Checkpoint:
        """The model that was given, with its whole vocabulary."""
        return self.vocabulary.whole if self.vocabulary else self.source

    @property
    def pruning_limit(self) -> PruningLimit | None:
        """The most that pruning can reach, by the smallest subnet; None where nothing is timed."""
        return pruning_limit(self.ends.dense, self.ends.floor, self.ends.head) if self.ends else None

    @property
    def already_met(self) -> bool:
        """True if the dense model meets every target already, so that nothing is to be made."""
        return self.vocabulary is None and self.pattern is None and self.unpruned_meets

    @property
    def unpruned_meets(self) -> bool:
        """True if `source` meets every target without pruning."""
        dense = self.source.shape.dense_plan
        if self.plan:
            return self.plan == dense
        target = self.provisional_target_ms
        if target is None and not self.constraints:
            return False
        fast = target is None or (self.ends is not None and self.ends.unpruned <= target)
        return fast and all(c.allows(dense) for c in self.constraints)

    @property
    def disk_bytes(self) -> int:
        """The most that the run may hold on disk."""
        rounds = self.method.whole_rounds
        if self.texts.domains:
            return self.plans * disk_needed(self.source, self.memory.on_disk, rounds)
        layers = 2 if self.pattern else (self.plans - 1) * (3 + rounds)
        return disk_needed(self.source, self.memory.on_disk, rounds, layers)

    def to_json(self) -> dict[str, Any]:
        """Returns the result for people and scripts: milliseconds, bytes, and the range of every target."""
        shape, smallest = self.source.shape, self.choices.smallest
        return {
            "status": "already-met" if self.already_met else "feasible",
            "model": self.source.name,
            "parameters": self.whole.shape.parameters(shape.dense_plan),
            "vocabulary": vocabulary_rows(self.vocabulary) if self.vocabulary else None,
            "latency": {
                "metric": self.benchmark.workload.metric,
                "target_ms": self.provisional_target_ms,
                "dense_ms": self.ends.dense if self.ends else None,
                "unpruned_ms": self.ends.unpruned if self.ends else None,
                "floor_ms": self.ends.floor if self.ends else None,
                "pruning_limit": self.pruning_limit,
                "estimate": self.table.estimate if self.table else None,
            },
            "targets": [
                {
                    "name": c.name,
                    "unit": c.unit,
                    "limit": c.limit,
                    "dense": c.cost(shape.dense_plan),
                    "floor": c.cost(smallest),
                }
                for c in self.constraints
            ],
            "disk_bytes": self.disk_bytes,
            "memory": self.memory.to_json(),
            "calibration": self.texts.calibration.to_json(),
            "warnings": self.benchmark.progress.warnings,
        }


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
    pattern = checked_pattern(options, source)
    rules = width_rules(options, source)
    space = make_space(source.shape, rules, options.ffn_levels)
    mixed = MixedSpace(space, options.block_bits) if options.block_bits else None
    plan = read_plan(options.plan, space, rules, source.shape.experts, mixed) if options.plan else None
    if pattern and not options.targeted:
        plan = plan or source.shape.dense_plan
    workload = _workload(options, source, progress)
    texts = check_texts(options, source, progress)
    memory = memory_plan(options, source)
    benchmark = LatencyBenchmark(
        source, backend, workload, options.threads, progress, options.measure_seconds
    )
    constraints = _constraints(options, source, mixed or space, workload)
    for constraint in constraints:
        _check_floor(constraint, mixed or space)
    found = PreflightResult(
        source,
        space,
        method,
        benchmark,
        constraints,
        plan=plan,
        memory=memory,
        texts=texts,
        vocabulary=vocabulary,
        mixed=mixed,
        pattern=pattern,
        plans=options.subnets,
    )
    check_disk(options.out, found.disk_bytes)
    progress.say(
        f"{source.name}: {source.family.model_type}, {source.shape.num_layers} layers, "
        f"{whole.shape.parameters(whole.shape.dense_plan) / 1e6:.1f} M parameters"
    )
    if options.block_bits:
        plain = "float32" if options.engine.startswith("onnx") else "the checkpoint's type"
        progress.say(f"  weights: {plain}, 8 or 4 bits by block; --bits 16 keeps {plain}")
    if options.profile:
        found = _profiled(options, found, options.profile)
    return _unpruned(options, _time(options, found, ends) if options.timed else found)


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


def _profiled(options: CompressOptions, found: PreflightResult, path: Path) -> PreflightResult:
    """Returns the result with a profile's table, and with whether the profile is of this machine."""
    benchmark, shape = found.benchmark, found.source.shape
    table = Profile.load(path).table(options.backend, shape, benchmark.workload)
    own = fingerprint(versions_here(benchmark.backend), benchmark.threads)
    here = table.estimate is None and table.fingerprint == own
    if not here:
        origin = f"an estimate, {table.estimate}" if table.estimate else _differences(table.fingerprint, own)
        benchmark.progress.say(f"  profile: {origin}; the artefact will not be timed against it here")
    return replace(found, table=table, on_this_machine=here)


def _differences(theirs: Mapping[str, object], own: Mapping[str, object]) -> str:
    """Returns in what a profile's machine and its settings are not those of here."""
    names = [name for name in {**theirs, **own} if theirs.get(name) != own.get(name)]
    return "; ".join(
        f"{name.replace('_', ' ')} {theirs.get(name, 'none')}, here {own.get(name, 'none')}" for name in names
    )


def _time(options: CompressOptions, found: PreflightResult, known: Ends | None) -> PreflightResult:
    """Returns the result with the latencies of dense and the smallest subnet, and the target.

    Raises:
        UserError: the target is below what the smallest subnet takes.
    """
    found = replace(found, ends=known or _ends(found))
    if options.open_ended or not found.ends or not (limit := found.pruning_limit):
        return found
    dense, floor = found.ends.dense, found.ends.floor
    target = options.latency_limit_ms or dense / (options.speedup or 1.0)
    least = floor * _FLOOR_MARGIN
    if least > target:
        whose = f"the plan {options.tightest_plan} with " if options.several_targets else ""
        raise UserError(
            f"{whose}a {found.benchmark.workload.metric} of {target:.3g} ms is out of reach: dense "
            f"takes {dense:.3g} ms, the smallest subnet (one narrow attention block) {floor:.3g} ms: "
            f"{limit_of_pruning(limit)}",
            _within_reach(found, dense, least),
        )
    _check_widest(options, dense, found.ends.unpruned)
    return replace(found, provisional_target_ms=target)


def _check_widest(options: CompressOptions, dense: float, unpruned: float) -> None:
    """Checks that no subnet of a family is the whole model.

    Raises:
        UserError: the model as it is meets the target of one.
    """
    for name, own in options.plans.items():
        target = own.latency_limit_ms or dense / (own.speedup or 1.0)
        if unpruned <= target:
            raise UserError(
                f"the plan {name} is the whole model, which takes {unpruned:.3g} of {target:.3g} ms",
                "Leave that target out.",
            )


def _within_reach(found: PreflightResult, dense: float, least: float) -> str:
    """Returns what to ask for instead of a target out of reach."""
    if least >= dense:
        return "Run again when the machine is quieter; pruning gains nothing here."
    cut = "" if found.vocabulary else " --vocabulary TEXT makes the head smaller."
    return f"Ask for at least {least:.2g} ms ({dense / least:.3g}x).{cut}"


def _unpruned(options: CompressOptions, found: PreflightResult) -> PreflightResult:
    """Returns the result with the dense plan where a cut vocabulary alone meets the targets for sure."""
    target, ends = found.provisional_target_ms, found.ends
    sure = target is None or ends is None or ends.unpruned * _FLOOR_MARGIN <= target
    if not found.vocabulary or found.plan or options.open_ended or not (sure and found.unpruned_meets):
        return found
    found.benchmark.progress.say("  the cut vocabulary alone meets the target: no layer is pruned")
    return replace(found, plan=found.source.shape.dense_plan)


def _ends(found: PreflightResult) -> Ends:
    """Returns the latencies of the profile, or times them quickly."""
    if found.table:
        return Ends.of_table(found.table, found.source.shape.dense_plan, found.choices.smallest)
    return Ends.measured(found.benchmark, found.choices.smallest, found.whole.shape.vocab_size)
