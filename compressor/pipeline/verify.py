"""Verify: an artefact loaded, run, scored and timed beside dense."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lathe.artefact.errors import UserError
from lathe.artefact.modeling import register
from lathe.artefact.modeling.load import load_model
from lathe.artefact.onnx.graph_format import FOLDER, GRAPH
from lathe.compressor.compute.device import CPU
from lathe.compressor.compute.progress import Progress
from lathe.compressor.evaluate import Quality, quality
from lathe.compressor.evaluate.onnx import OnnxModel
from lathe.compressor.export.artefact import open_artefact
from lathe.compressor.export.base import Export, exporters
from lathe.compressor.export.onnx.graph import read_summary
from lathe.compressor.latency.measure import Comparison
from lathe.compressor.model.decoder import LayeredModel
from lathe.compressor.model.reference import load_dense
from lathe.compressor.pipeline.calibrate import CalibrationResult
from lathe.compressor.pipeline.latency_loop import Iteration
from lathe.compressor.pipeline.options import Options
from lathe.compressor.pipeline.preflight import PreflightResult
from lathe.compressor.pipeline.run_directory import RunDirectory
from lathe.compressor.pipeline.writing import SampleCollector

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


class Verifier:
    """Verifies the artefacts of a run, one after the other. The dense model is scored beside the first, for
    all: what it does does not change.
    """

    def __init__(
        self,
        options: Options,
        card: PreflightResult,
        prepared: CalibrationResult,
        run: RunDirectory,
        progress: Progress,
    ) -> None:
        self._options, self._card, self._prepared = options, card, prepared
        self._run, self._progress = run, progress
        self._windows, self._text = _evaluation(options, card, prepared)
        self._writing = SampleCollector.about(card, self._windows)
        self._batches = -(-len(self._windows) // 4)
        self._rounded = options.graph if options.graph and exporters.get(options.graph).rounds else None
        self._dense: Quality | None = None
        self._rounded_dense: Quality | None = None

    def __call__(self, chosen: Iteration, artefact: Path) -> Verified:
        """Reload the artefact in both runtimes, compare them, time it beside dense, and score both models.
        Models that memory does not hold are read layer by layer instead of loaded by transformers.

        Raises:
            UserError: what was loaded is not what was planned, or the runtimes disagree.
        """
        register()
        options, card, windows = self._options, self._card, self._windows
        title = "verify: reload, parity, perplexity, samples"
        with self._progress.stage(title, self._steps(self._dense)) as bar:
            model = _subnet(card, self._prepared, chosen, artefact)
            parity = _parity(model, artefact, windows[0]) if options.graph and not self._rounded else None
            subnet = quality(model, windows, bar.advance)
            self._writing.take("subnet", model)
            del model
            dense = self._dense = self._dense or self._score_dense(bar.advance)
        rounding = self._rounding(artefact) if self._rounded else None
        timing = _time(card, artefact) if options.runs and card.here else None
        return Verified(timing, dense, subnet, self._text, self._writing.rows(), parity, rounding)

    def _steps(self, known: Quality | None) -> int:
        return self._batches * (1 if known else 2)

    def _score_dense(self, advance: Advance) -> Quality:
        card = self._card
        model = self._prepared.model if card.memory.on_disk else load_dense(card.source.path)
        found = quality(model, self._windows, advance)
        self._writing.take("dense", model)
        return found

    def _rounding(self, artefact: Path) -> dict[str, Any]:
        """Of both models: the dense one is rounded in the same way, so that what cutting costs is not taken
        for rounding.
        """
        title = f"verify: what {self._rounded} costs"
        with self._progress.stage(title, self._steps(self._rounded_dense)) as bar:
            dense = self._rounded_dense = self._rounded_dense or self._score_rounded_dense(bar.advance)
            subnet = quality(OnnxModel(artefact), self._windows, bar.advance)
        return {
            **read_summary(artefact / FOLDER),
            "loss": {"dense": dense.loss, "subnet": subnet.loss, "unit": "nats per token"},
            "perplexity": {"dense": dense.perplexity, "subnet": subnet.perplexity},
        }

    def _score_rounded_dense(self, advance: Advance) -> Quality:
        assert self._rounded is not None
        whole = self._run.fresh("dense")
        exporters.get(self._rounded).write(whole, Export.whole(self._card.source))
        found = quality(OnnxModel(whole), self._windows, advance)
        shutil.rmtree(whole)
        return found


def _time(card: PreflightResult, artefact: Path) -> Comparison:
    with card.meter.models([card.source.shape.dense_plan]) as (dense,):
        return card.meter.compare_built(dense, artefact / exporters.get(card.meter.backend.export).folder)


def _evaluation(
    options: Options, card: PreflightResult, prepared: CalibrationResult
) -> tuple[torch.Tensor, str]:
    if options.evaluation is None or card.texts.evaluation is None:
        text = f"held-out part of the calibration text ({options.calibration})"
        return prepared.windows[prepared.heldout], text
    return card.texts.evaluation, options.evaluation


def _subnet(card: PreflightResult, prepared: CalibrationResult, chosen: Iteration, artefact: Path) -> Any:
    """The artefact's checkpoint, loaded, of as many parameters as the plan has."""
    model: Any
    if card.memory.on_disk:
        source = open_artefact(artefact).source
        loaded = sum(torch.Size(entry.shape).numel() for entry in source.index.values())
        model = LayeredModel.open(source, prepared.store, prepared.model.runner)
    else:
        model = load_model(artefact)
        loaded = sum(p.numel() for p in model.parameters())
    planned = card.source.shape.parameters(chosen.plan)
    if loaded != planned:
        raise UserError(f"the reloaded checkpoint has {loaded:,} parameters where the plan has {planned:,}")
    return model


@torch.inference_mode()
def _parity(model: Any, artefact: Path, window: torch.Tensor) -> float:
    from lathe.artefact.onnx.runner import OnnxRunner

    tokens = window[:_PARITY_TOKENS]
    expected = model(input_ids=tokens[None]).logits[0].to(CPU).numpy()
    runner = OnnxRunner(artefact / GRAPH, max_batch=1, max_length=len(tokens))
    half = len(tokens) // 2
    rows = [runner.prefill(0, tokens[:half].numpy(), "all")]
    rows += [runner.decode(token[None].numpy()) for token in tokens[half:]]
    difference = float(np.abs(np.concatenate(rows) - expected).max() / expected.std())
    if difference > _PARITY:
        raise UserError(f"ONNX Runtime and transformers disagree by {difference:.2g} of the logits' spread")
    return difference
