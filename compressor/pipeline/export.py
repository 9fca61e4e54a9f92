"""Export: from finished layers to the files of an artefact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import torch

from lathe.artefact.atomic_files import write_json
from lathe.compressor.export.base import Export, exporters
from lathe.compressor.model.names import layer_prefix
from lathe.compressor.model.rounding import QuantizedMatrix
from lathe.compressor.pipeline.cache_scales import Scales
from lathe.compressor.pipeline.latency_loop import Iteration
from lathe.compressor.pipeline.reconstruct import finished_layer
from lathe.compressor.pipeline.round import RoundedLayers
from lathe.compressor.pipeline.run_context import RunContext

T = TypeVar("T")


def export(
    context: RunContext,
    iteration: Iteration,
    name: str,
    rounded: str | None = None,
    scales: Scales | None = None,
    place: str = "artefact",
) -> Path:
    """Writes the artefact's files into the run directory; returns their directory.

    Args:
        context: The run.
        iteration: The plan.
        name: The name of the finished layers in the run directory.
        rounded: The name of the rounded ones, where there are some.
        scales: Those of an int8 KV cache.
        place: The name of the directory.
    """
    options, directory = context.options, context.run_dir.fresh(place)
    job = Export(
        context.preflight.source,
        iteration.plan,
        _finished(context, name),
        options.tensor_parallel,
        groups=options.groups,
        nested=context.preflight.nested,
    )
    if rounded:
        job = replace(job, rounded=_rounded(context, rounded))
    if scales is not None:
        job = replace(job, cache_scales=scales.__getitem__)
    with context.progress.stage("export: " + " and ".join(options.exports), len(options.exports)) as bar:
        for target in options.exports:
            exporters.get(target).write(directory, job)
            bar.advance()
    write_json(directory / "plan.json", iteration.plan.to_json())
    return directory


def _finished(context: RunContext, name: str) -> Callable[[str], torch.Tensor]:
    """Returns what gives the subnet's tensors by checkpoint name."""
    layers = _LayerOf(context, partial(finished_layer, context.run_dir, name))

    def tensor(name: str) -> torch.Tensor:
        layer, rest = layers(name)
        return context.preflight.source.tensor(name) if layer is None else layer[rest]

    return tensor


def _rounded(context: RunContext, name: str) -> Callable[[str], torch.Tensor | QuantizedMatrix | None]:
    """Returns what gives the tensors that rounding changed, by checkpoint name."""
    rounded = RoundedLayers(context.run_dir.path, name)
    layers, head = _LayerOf(context, rounded), rounded.head()

    def tensor(name: str) -> torch.Tensor | QuantizedMatrix | None:
        layer, rest = layers(name)
        return head.get(name) if layer is None else layer.get(rest)

    return tensor


class _LayerOf(Generic[T]):
    """Finds the layer that a tensor belongs to; holds one layer at a time."""

    def __init__(self, context: RunContext, load: Callable[[int], T]) -> None:
        count = context.preflight.source.shape.num_layers
        self._prefixes = {layer_prefix(index): index for index in range(count)}
        self._load = load
        self._last: tuple[int, T] | None = None

    def __call__(self, name: str) -> tuple[T | None, str]:
        """Returns the layer, if there is one, and the name relative to it, from a checkpoint's name."""
        for prefix, index in self._prefixes.items():
            if name.startswith(prefix):
                if self._last is None or self._last[0] != index:
                    self._last = None
                    self._last = (index, self._load(index))
                return self._last[1], name.removeprefix(prefix)
        return None, name
