"""The registry of search methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from lathe.artefact.plan import BlockKind, ModelShape, Plan
from lathe.artefact.registry import Registry
from lathe.compressor.compute.array_store import ArrayStore
from lathe.compressor.compute.progress import Progress
from lathe.compressor.compute.workers import LocalWorkers, Workers
from lathe.compressor.model.block_runner import BlockRunner, Weights
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.model.decoder import LayeredModel
from lathe.compressor.model.embedding import Embedding
from lathe.compressor.model.lm_head import LMHead
from lathe.compressor.model.pruning import ImportanceRanking, Selection
from lathe.compressor.search.space import Constraint, Space
from lathe.compressor.search.trace import Trace
from lathe.compressor.statistics import LastingStatistics

_STAYS = ("constraints", "trace", "progress", "workers")


@dataclass(frozen=True)
class Problem:
    """What every search is given.

    Args:
        source: the dense model's checkpoint.
        model: its layers, and what comes before and after them.
        space: the levels that plans are made of.
        windows: [n, T] tokens to judge candidates on; the statistics come from others.
        dampings: (attention, FFN) of each layer, chosen on held-out text.
        constraints: all of them have to hold.
        trace: where every judgement goes, so that a killed search replays.
        evaluations: how many plans may be judged whole.
        store: for hidden states.
        workers: who judges. A problem travels to them without what only the search itself uses: constraints,
            trace, progress and workers.
    """

    source: Checkpoint
    model: LayeredModel
    space: Space
    windows: torch.Tensor
    statistics: Sequence[LastingStatistics]
    rankings: list[ImportanceRanking]
    dampings: list[tuple[float, float]]
    errors: list[dict[BlockKind, torch.Tensor]]
    constraints: list[Constraint]
    trace: Trace
    progress: Progress
    evaluations: int
    seed: int
    store: ArrayStore = field(default_factory=ArrayStore)
    workers: Workers = field(default_factory=LocalWorkers)

    @property
    def runner(self) -> BlockRunner:
        """Runs single blocks, with any widths."""
        return self.model.runner

    @property
    def head(self) -> LMHead:
        """Final norm and LM head."""
        return self.model.head

    @property
    def layers(self) -> Sequence[Weights]:
        """Dense weights."""
        return self.model.layers

    @property
    def embedding(self) -> Embedding:
        """What the first layer reads, by tokens."""
        return self.model.embedding

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in _STAYS}

    def allows(self, plan: Plan) -> bool:
        """Whether a plan is within all constraints."""
        return all(c.allows(plan) for c in self.constraints)


@dataclass(frozen=True)
class SearchResult:
    """The winner.

    Args:
        selections: which heads and channels it keeps, layer by layer.
        fitness: KL(dense || subnet) in nats per token, or what else the search went by.
        evaluations: candidates that were judged.
    """

    plan: Plan
    selections: list[Selection]
    fitness: float
    evaluations: int


@dataclass(frozen=True)
class Method:
    """A search with the order and the final reform that belong to it.

    Args:
        name: what `--method` calls it.
        importance: the name of an importance method, of `importance_methods`.
        reconstruction: the name of a reconstruction, of `reconstructions`.
        search: finds the plan.
        default_evaluations: of whole plans, where `--evaluations` is not given.
        whole_rounds: the most rounds of `reconstruction/whole.py` after the reconstruction of the blocks.
        sensitivities: computes the sensitivity of each block at each level, where the search needs it.
        check: raises UserError where it is not for a model of these dimensions.
    """

    name: str
    importance: str
    reconstruction: str
    search: Callable[[Problem], SearchResult]
    default_evaluations: int
    whole_rounds: int = 0
    sensitivities: Callable[[Problem], np.ndarray] | None = None
    check: Callable[[ModelShape], None] = lambda _shape: None


methods: Registry[Method] = Registry(
    "method",
    "lathe.compressor.search.methods",
    "lathe.methods",
    lambda _name, value: isinstance(value, Method),
)
"""Every search by name."""
