"""The registry of search methods."""

from __future__ import annotations

import hashlib
import json
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
from lathe.compressor.model.groups import BY_ERROR, GroupRule
from lathe.compressor.model.lm_head import LMHead
from lathe.compressor.model.pruning import ImportanceRanking, Selection
from lathe.compressor.search.mixed_space import MixedSpace
from lathe.compressor.search.space import Choices, Constraint, Space
from lathe.compressor.search.trace import Trace
from lathe.compressor.statistics import LastingStatistics

_NOT_SENT = ("constraints", "trace", "progress", "workers", "choose")


@dataclass(frozen=True)
class Problem:
    """The problem that every search is given.

    Attributes:
        source: The dense model's checkpoint.
        model: The dense model: its layers, and what comes before and after them.
        space: The widths that plans are made of.
        windows: [n, T] tokens to evaluate candidates on; the statistics come from other windows.
        statistics: Second moments of each layer.
        rankings: The ranking of each layer.
        dampings: (attention, FFN) of each layer, chosen on held-out text.
        errors: The output error of each layer's blocks at each level (`level_errors.py`).
        constraints: All of them have to hold.
        trace: Records every evaluation, so that a killed search replays.
        progress: Shows the stages of the search.
        evaluations: The number of whole plans that may be evaluated.
        seed: Seeds random searches.
        store: Keeps hidden states.
        fitted: [n, T] windows to measure inputs of matrices on, where weights may be rounded.
        mixed: The levels of widths and bits, where weights may be rounded.
        groups: Gives each matrix its group that is rounded.
        within: A wider plan, each of whose blocks contains that of the plan that is searched; None: any.
        choose: Reconstructs some results and returns the number of the best; None: it cannot be had.
        workers: Evaluate candidates. A problem travels to them without the fields that only the search itself
            uses: constraints, trace, progress, choose and workers.
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
    fitted: torch.Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.long))
    mixed: MixedSpace | None = None
    groups: GroupRule = BY_ERROR
    within: Plan | None = None
    choose: Callable[[Sequence[SearchResult]], int] | None = None

    @property
    def choices(self) -> Choices:
        """Returns the levels that plans are made of: widths, with bits where weights may be rounded."""
        return self.mixed or self.space

    @property
    def runner(self) -> BlockRunner:
        """Returns the runner of single blocks, with any widths."""
        return self.model.runner

    @property
    def head(self) -> LMHead:
        """Returns the final norm and LM head."""
        return self.model.head

    @property
    def layers(self) -> Sequence[Weights]:
        """Returns the dense weights of each layer."""
        return self.model.layers

    @property
    def embedding(self) -> Embedding:
        """Returns the embedding."""
        return self.model.embedding

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out the fields that are not sent to workers."""
        return {name: value for name, value in vars(self).items() if name not in _NOT_SENT}

    def digest(self, limits: bool = True) -> str:
        """Names the budgets, seed and effort: values in the trace that depend on these are under it.

        Args:
            limits: Whether the limits count, or only what the budgets price and how.
        """
        prices = [(c.name, c.fixed, [*c.attention.values()], [*c.ffn.values()]) for c in self.constraints]
        asked = [c.limit for c in self.constraints] if limits else []
        facts = json.dumps([prices, asked, self.seed, self.evaluations])
        return hashlib.sha256(facts.encode()).hexdigest()[:12]

    def allows(self, plan: Plan) -> bool:
        """Tells whether a plan is within all constraints."""
        return all(c.allows(plan) for c in self.constraints)


@dataclass(frozen=True)
class SearchResult:
    """The winner of a search.

    Attributes:
        plan: Its widths.
        selections: The heads and channels that it keeps, layer by layer.
        fitness: KL(dense || subnet) in nats per token, or another criterion of the search.
        evaluations: The number of candidates that were evaluated.
    """

    plan: Plan
    selections: list[Selection]
    fitness: float
    evaluations: int


@dataclass(frozen=True)
class Method:
    """A search with the importance method and the final reconstruction that belong to it.

    Attributes:
        name: The value of `--method`.
        importance: The name of its importance method in `importance_methods`.
        reconstruction: The name of its final reconstruction in `reconstructions`.
        search: Finds the plan.
        default_evaluations: The number of whole plans to evaluate where `--evaluations` is not given.
        whole_rounds: The most rounds of `reconstruction/kl_refinement.py` after the blocks are reconstructed.
        on_samples: Whether blocks are solved on a part of the text.
        bfloat16: Whether statistics and reconstruction take hidden states that bfloat16 products give, where
            those are faster.
        in_steps: Whether a round is `reconstruction/kl_steps.py` instead, each of whose steps reads a part.
        by_gradients: Whether few bits are rounded by what changes cost at the model's end, too.
        sensitivities: Makes the table of each block's sensitivity at each level, where the search uses one.
        check: Raises UserError where the method does not support a model of these dimensions.
    """

    name: str
    importance: str
    reconstruction: str
    search: Callable[[Problem], SearchResult]
    default_evaluations: int
    whole_rounds: int = 0
    on_samples: bool = False
    bfloat16: bool = False
    in_steps: bool = False
    by_gradients: bool = False
    sensitivities: Callable[[Problem], np.ndarray] | None = None
    check: Callable[[ModelShape], None] = lambda _shape: None


methods: Registry[Method] = Registry(
    "method",
    "lathe.compressor.search.methods",
    "lathe.methods",
    lambda _name, value: isinstance(value, Method),
)
"""Every search by name."""
