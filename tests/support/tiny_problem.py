"""A tiny random Llama with what the stages after calibration read: statistics, rankings, a search problem."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lathe.artefact.plan import Plan
from lathe.compressor.compute.progress import Progress
from lathe.compressor.importance import importance_methods
from lathe.compressor.latency.table import TERMS, LatencyTable
from lathe.compressor.latency.workload import Workload
from lathe.compressor.model.block_runner import BlockRunner, Weights
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.model.decoder import LayeredModel
from lathe.compressor.model.lm_head import LMHead
from lathe.compressor.model.names import DOWN_PROJ, O_PROJ
from lathe.compressor.model.pruning import ImportanceRanking, prune_attention, prune_ffn, select
from lathe.compressor.reconstruction import ProjectionPruner, damped
from lathe.compressor.search.level_errors import level_errors
from lathe.compressor.search.method import Problem
from lathe.compressor.search.space import Constraint, make_space, parameter_constraint
from lathe.compressor.search.trace import Trace
from lathe.compressor.statistics import LayerStatistics, collect_layer
from lathe.compressor.statistics.collect import batches_of
from support.tiny_llama import checkpoint, tokens

WINDOWS, LENGTH = 16, 32
TABLE = LatencyTable(
    Workload(),
    {},
    dict(zip(TERMS, (0.4, 0.3, 0.11, 0.013, 0.02, 0.09, 0.004), strict=True)),
    [{"dense_ms": 9.0}],
    tile=32,
)
"""Milliseconds whose prices are steps of 32 channels."""


@dataclass(frozen=True)
class Lab:
    """One model and the dense statistics of its layers. heldout: the last windows."""

    source: Checkpoint
    runner: BlockRunner
    head: LMHead
    layers: list[Weights]
    embedding: torch.Tensor
    windows: torch.Tensor
    heldout: torch.Tensor
    statistics: list[LayerStatistics]

    @property
    def model(self) -> LayeredModel:
        return LayeredModel(self.source, self.runner, self.head, self.embedding, self.layers)

    def first_units(self, plan: Plan) -> list[dict[str, torch.Tensor]]:
        """Returns layers of the first heads and channels, their weights as they were."""
        ranking = ImportanceRanking(torch.arange(4), torch.arange(8).view(4, 2), torch.arange(96))
        chosen = [select(ranking, kept) for kept in plan]
        return [
            {**prune_attention(self.source.shape, dense, kept), **prune_ffn(dense, kept)}
            for dense, kept in zip(self.layers, chosen, strict=True)
        ]

    @property
    def embedded(self) -> torch.Tensor:
        return self.embedding[self.windows]

    def problem(self, directory: Path, importance: str = "elimination", **changes: Any) -> Problem:
        """A search at 60 % of the parameters."""
        source, space = self.source, make_space(self.source.shape)
        rankings = [
            importance_methods.get(importance)(source.shape, w, s)
            for w, s in zip(self.layers, self.statistics, strict=True)
        ]
        facts: dict[str, Any] = {
            "source": source,
            "model": self.model,
            "space": space,
            "windows": self.windows[~self.heldout],
            "statistics": self.statistics,
            "rankings": rankings,
            "dampings": [(1e-3, 1e-3)] * len(self.layers),
            "errors": [
                level_errors(
                    source.shape,
                    space,
                    ranking,
                    {
                        "attention": ProjectionPruner(w[f"{O_PROJ}.weight"], damped(s.attention, 1e-3)),
                        "ffn": ProjectionPruner(
                            w[f"{DOWN_PROJ}.weight"], damped(s.ffn, 1e-3), ranking.channels
                        ),
                    },
                )
                for w, s, ranking in zip(self.layers, self.statistics, rankings, strict=True)
            ],
            "constraints": [self.keep(0.6)],
            "trace": Trace(directory / "trace.jsonl"),
            "progress": Progress(quiet=True),
            "evaluations": 120,
            "seed": 0,
        }
        return Problem(**facts | changes)

    def keep(self, share: float) -> Constraint:
        return parameter_constraint(make_space(self.source.shape), self.source.shape, share)


def batches(heldout: torch.Tensor) -> list[torch.Tensor]:
    """Index batches of all windows, those to fit first."""
    return [*batches_of(heldout, False), *batches_of(heldout, True)]


def make_lab(directory: Path, **changes: Any) -> Lab:
    source = checkpoint(directory, **changes)
    runner = BlockRunner(source)
    embedding = source.tensor("model.embed_tokens.weight")
    output = embedding if source.shape.tied_embeddings else source.tensor("lm_head.weight")
    head = LMHead(runner, source.module("model.norm"), output)
    layers: list[Weights] = [source.layer(i) for i in range(source.shape.num_layers)]
    windows, heldout = tokens(WINDOWS, LENGTH), torch.arange(WINDOWS) >= WINDOWS - 3
    hidden: torch.Tensor = embedding[windows]
    statistics = []
    for weights in layers:
        statistics.append(collect_layer(runner, weights, hidden, heldout, batches(heldout)).finalize())
    return Lab(source, runner, head, layers, embedding, windows, heldout, statistics)
