"""What is known of a run before a weight is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lathe.artefact.plan import Plan
from lathe.artefact.report_format import PruningLimit
from lathe.compressor.latency.ends import Ends
from lathe.compressor.latency.limit import pruning_limit
from lathe.compressor.latency.measure import LatencyBenchmark
from lathe.compressor.latency.table import LatencyTable
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.model.pattern import Pattern
from lathe.compressor.pipeline.checks import Texts, disk_needed
from lathe.compressor.pipeline.memory_estimate import MemoryPlan
from lathe.compressor.pipeline.vocabulary import vocabulary_rows
from lathe.compressor.search.method import Method
from lathe.compressor.search.mixed_space import MixedSpace
from lathe.compressor.search.space import Choices, Constraint, Space
from lathe.compressor.vocabulary import CutVocabulary


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
