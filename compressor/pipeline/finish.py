"""Export and verify: from finished layers to an artefact that has been loaded, run and timed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compressor.calibration import token_windows
from compressor.errors import UserError
from compressor.evaluate import Quality, quality
from compressor.evaluate.onnx import OnnxModel
from compressor.export.artefact import open_artefact
from compressor.export.base import Export, exporters
from compressor.export.files import write_json
from compressor.export.onnx import FOLDER
from compressor.export.onnx.graph import read_summary
from compressor.latency.measure import Comparison
from compressor.layered import LayeredModel
from compressor.modeling import register
from compressor.modeling.load import load_model
from compressor.pipeline.options import Options
from compressor.pipeline.preflight import Card
from compressor.pipeline.prepare import Prepared
from compressor.pipeline.reform import finished_layer
from compressor.pipeline.rundir import RunDirectory
from compressor.pipeline.solve import Round
from compressor.pipeline.writing import Writing
from compressor.progress import Progress
from compressor.reform.final import Finished
from serving.manifest import GRAPH

_EVALUATION_WINDOWS = 64
_PARITY_TOKENS = 64
_PARITY = 2e-4

Advance = Callable[[], None]


@dataclass(frozen=True)
class Verified:
    """What was measured on the finished artefact; timing where it was exported for the backend.

    parity: largest difference between the logits of transformers and ONNX Runtime, relative to the logits'
    standard deviation, where it has a graph of the checkpoint's values. rounding: where it has one of rounded
    values, what that did: to the matrices, and to the loss of the dense model and the subnet. samples: what
    both write after the same prompts, before rounding; none without a tokenizer.
    """

    timing: Comparison | None
    dense: Quality
    subnet: Quality
    evaluation_text: str
    samples: list[dict[str, Any]]
    parity: float | None = None
    rounding: dict[str, Any] | None = None


def export(
    options: Options, card: Card, chosen: Round, name: str, run: RunDirectory, progress: Progress
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

    def __init__(self, card: Card, run: RunDirectory, name: str) -> None:
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


def verify(
    options: Options,
    card: Card,
    prepared: Prepared,
    chosen: Round,
    artefact: Path,
    run: RunDirectory,
    progress: Progress,
) -> Verified:
    """Reload the artefact in both runtimes, compare them, time it beside dense, and score both models. Models
    that memory does not hold are read layer by layer instead of loaded by transformers.

    Raises:
        UserError: what was loaded is not what was planned, or the runtimes disagree.
    """
    register()
    windows, text = _evaluation(options, card, prepared)
    writing = Writing.about(card, windows)
    rounded = options.graph if options.graph and exporters.get(options.graph).rounds else None
    with progress.stage("verify: reload, parity, perplexity, samples", 2 * -(-len(windows) // 4)) as bar:
        model = _subnet(card, prepared, chosen, artefact)
        parity = _parity(model, artefact, windows[0]) if options.graph and not rounded else None
        subnet = quality(model, windows, bar.advance)
        writing.take("subnet", model)
        del model
        dense_model = prepared.model if card.memory.on_disk else load_model(card.source.path)
        dense = quality(dense_model, windows, bar.advance)
        writing.take("dense", dense_model)
        del dense_model
    rounding = None
    if rounded:
        with progress.stage(f"verify: what {rounded} costs", 2 * -(-len(windows) // 4)) as bar:
            rounding = _rounding(rounded, card, run, artefact, windows, bar.advance)
    timing = _time(card, artefact) if options.runs and card.here else None
    return Verified(timing, dense, subnet, text, writing.rows(), parity, rounding)


def _rounding(
    name: str, card: Card, run: RunDirectory, artefact: Path, windows: torch.Tensor, advance: Advance
) -> dict[str, Any]:
    """The dense model is rounded in the same way, so that what cutting costs is not taken for rounding."""
    whole = run.fresh("dense")
    exporters.get(name).write(whole, Export.whole(card.source))
    dense, subnet = (quality(OnnxModel(place), windows, advance) for place in (whole, artefact))
    shutil.rmtree(whole)
    return {
        **read_summary(artefact / FOLDER),
        "loss": {"dense": dense.loss, "subnet": subnet.loss, "unit": "nats per token"},
        "perplexity": {"dense": dense.perplexity, "subnet": subnet.perplexity},
    }


def _time(card: Card, artefact: Path) -> Comparison:
    with card.meter.models([card.source.shape.dense_plan]) as (dense,):
        return card.meter.compare_built(dense, artefact / exporters.get(card.meter.backend.export).folder)


def _evaluation(options: Options, card: Card, prepared: Prepared) -> tuple[torch.Tensor, str]:
    if options.evaluation is None:
        text = f"held-out part of the calibration text ({options.calibration})"
        return prepared.windows[prepared.heldout], text
    windows = token_windows(card.source, options.evaluation, prepared.windows.shape[1])
    return windows[:_EVALUATION_WINDOWS], options.evaluation


def _subnet(card: Card, prepared: Prepared, chosen: Round, artefact: Path) -> Any:
    """The artefact's checkpoint, loaded, of as many parameters as the plan has."""
    model: Any
    if card.memory.on_disk:
        source = open_artefact(artefact).source
        loaded = sum(torch.Size(entry.shape).numel() for entry in source.index.values())
        model = LayeredModel.open(source, prepared.room, prepared.model.runner)
    else:
        model = load_model(artefact)
        loaded = sum(p.numel() for p in model.parameters())
    planned = card.source.shape.parameters(chosen.plan)
    if loaded != planned:
        raise UserError(f"the reloaded checkpoint has {loaded:,} parameters where the plan has {planned:,}")
    return model


@torch.inference_mode()
def _parity(model: Any, artefact: Path, window: torch.Tensor) -> float:
    from serving.engines.onnx.runner import OnnxRunner

    tokens = window[:_PARITY_TOKENS]
    expected = model(input_ids=tokens[None]).logits[0].numpy()
    runner = OnnxRunner(artefact / GRAPH, max_batch=1, max_length=len(tokens))
    half = len(tokens) // 2
    rows = [runner.prefill(0, tokens[:half].numpy(), "all")]
    rows += [runner.decode(token[None].numpy()) for token in tokens[half:]]
    difference = float(np.abs(np.concatenate(rows) - expected).max() / expected.std())
    if difference > _PARITY:
        raise UserError(
            f"ONNX Runtime and transformers disagree by {difference:.2g} of the logits' spread"
        )
    return difference
