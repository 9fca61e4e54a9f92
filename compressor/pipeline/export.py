"""Export: from finished layers to what an artefact consists of."""

from __future__ import annotations

from pathlib import Path

import torch

from lathe.artefact.atomic_files import write_json
from lathe.compressor.compute.progress import Progress
from lathe.compressor.export.base import Export, exporters
from lathe.compressor.pipeline.latency_loop import Iteration
from lathe.compressor.pipeline.options import Options
from lathe.compressor.pipeline.preflight import PreflightResult
from lathe.compressor.pipeline.reconstruct import finished_layer
from lathe.compressor.pipeline.run_directory import RunDirectory
from lathe.compressor.reconstruction.variants import Finished


def export(
    options: Options,
    card: PreflightResult,
    chosen: Iteration,
    name: str,
    run: RunDirectory,
    progress: Progress,
) -> Path:
    """Write what the artefact consists of into the run directory."""
    directory = run.fresh("artefact")
    layers = _LayerTensors(card, run, name)
    job = Export(card.source, chosen.plan, layers, options.tensor_parallel)
    with progress.stage("export: " + " and ".join(options.exports), len(options.exports)) as bar:
        for target in options.exports:
            exporters.get(target).write(directory, job)
            bar.advance()
    write_json(directory / "plan.json", chosen.plan.to_json())
    return directory


class _LayerTensors:
    """Cut tensors by checkpoint name; holds one layer at a time."""

    def __init__(self, card: PreflightResult, run: RunDirectory, name: str) -> None:
        self._source, self._run, self._name = card.source, run, name
        self._prefixes = {card.source.family.layer_prefix(i): i for i in range(card.source.shape.num_layers)}
        self._at = -1
        self._tensors: Finished = {}

    def __call__(self, name: str) -> torch.Tensor:
        for prefix, index in self._prefixes.items():
            if name.startswith(prefix):
                if index != self._at:
                    self._tensors, self._at = finished_layer(self._run, self._name, index), index
                return self._tensors[name.removeprefix(prefix)]
        return self._source.tensor(name)
