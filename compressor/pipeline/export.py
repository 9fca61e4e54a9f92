"""Export: from finished layers to the files of an artefact."""

from __future__ import annotations

from pathlib import Path

import torch

from lathe.artefact.atomic_files import write_json
from lathe.compressor.export.base import Export, exporters
from lathe.compressor.model.names import layer_prefix
from lathe.compressor.pipeline.latency_loop import Iteration
from lathe.compressor.pipeline.reconstruct import finished_layer
from lathe.compressor.pipeline.run_context import RunContext
from lathe.compressor.reconstruction.registry import Finished


def export(context: RunContext, iteration: Iteration, name: str) -> Path:
    """Writes the artefact's files into the run directory; returns their directory.

    Args:
        context: The run.
        iteration: The plan.
        name: The name of the finished layers in the run directory.
    """
    options, directory = context.options, context.run_dir.fresh("artefact")
    layers = _LayerTensors(context, name)
    job = Export(context.preflight.source, iteration.plan, layers, options.tensor_parallel)
    with context.progress.stage("export: " + " and ".join(options.exports), len(options.exports)) as bar:
        for target in options.exports:
            exporters.get(target).write(directory, job)
            bar.advance()
    write_json(directory / "plan.json", iteration.plan.to_json())
    return directory


class _LayerTensors:
    """The subnet's tensors by checkpoint name; holds one layer at a time."""

    def __init__(self, context: RunContext, name: str) -> None:
        self._source, self._run_dir, self._name = context.preflight.source, context.run_dir, name
        count = self._source.shape.num_layers
        self._prefixes = {layer_prefix(index): index for index in range(count)}
        self._index = -1
        self._tensors: Finished = {}

    def __call__(self, name: str) -> torch.Tensor:
        for prefix, index in self._prefixes.items():
            if name.startswith(prefix):
                if index != self._index:
                    self._tensors = finished_layer(self._run_dir, self._name, index)
                    self._index = index
                return self._tensors[name.removeprefix(prefix)]
        return self._source.tensor(name)
