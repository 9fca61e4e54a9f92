"""A comparison's setting on a tiny random model of any kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from benchmarks.quality.setting import Setting
from lathe.compressor.compute.array_store import ArrayStore
from lathe.compressor.compute.progress import Progress
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.model.decoder import LayeredModel
from lathe.compressor.statistics import collect_layer
from support.tiny_families import family_checkpoint
from support.tiny_llama import VARIANTS, checkpoint, tokens
from support.tiny_problem import LENGTH, WINDOWS, batches

KINDS: dict[str, dict[str, Any]] = {
    "grouped heads": {},
    "ungrouped heads, tied, biases": VARIANTS["biased"] | VARIANTS["tied"] | {"num_key_value_heads": 8},
}
GEMMA: dict[str, Any] = {
    "family": "gemma3_text",
    "tie_word_embeddings": True,
    "num_key_value_heads": 1,
    "intermediate_size": 256,
}
"""Layers differ, norms follow blocks, and all heads share one KV head."""
EVERY_KIND = {**KINDS, "Gemma 3": GEMMA}


def make_setting(directory: Path, family: str = "llama", **changes: Any) -> Setting:
    """`changes` are of the model's config."""
    if family == "llama":
        return setting_of(checkpoint(directory, **changes))
    return setting_of(family_checkpoint(directory, family, **changes))


def setting_of(source: Checkpoint) -> Setting:
    """A setting on random text."""
    model = LayeredModel.open(source, ArrayStore())
    windows, heldout = tokens(WINDOWS, LENGTH), torch.arange(WINDOWS) >= WINDOWS - 3
    hidden, statistics = model.embedding[windows], []
    for index, weights in enumerate(model.layers):
        runner = model.runner.at(index)
        statistics.append(collect_layer(runner, weights, hidden, heldout, batches(heldout)).finalize())
    return Setting(
        source,
        model.runner,
        model.head,
        model.embedding,
        [dict(weights) for weights in model.layers],
        windows[~heldout],
        windows[heldout],
        statistics,
        0,
        Progress(quiet=True),
    )
