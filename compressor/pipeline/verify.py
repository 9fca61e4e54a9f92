"""Verify: an artefact loaded, run, scored and timed against dense."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from lathe.artefact.report_format import KvCache, LossPerByte, Quantization
from lathe.artefact.tokenizer import open_tokenizer
from lathe.compressor.evaluate import Quality, quality
from lathe.compressor.evaluate.onnx import OnnxModel
from lathe.compressor.export.base import Export, Exporter, exporters
from lathe.compressor.latency.built_models import TimedModel
from lathe.compressor.latency.comparison import Comparison
from lathe.compressor.model.reference import load_dense
from lathe.compressor.pipeline.cache_scales import Scales
from lathe.compressor.pipeline.calibrate import CalibrationResult
from lathe.compressor.pipeline.graph_engines import graph_model, installed
from lathe.compressor.pipeline.latency_loop import Iteration
from lathe.compressor.pipeline.parity import check_gguf_parity, check_parity
from lathe.compressor.pipeline.pattern import share_of_zeros
from lathe.compressor.pipeline.preflight_result import PreflightResult
from lathe.compressor.pipeline.run_context import RunContext
from lathe.compressor.pipeline.sample_collector import SampleCollector
from lathe.compressor.pipeline.served_model import checkpoint_model
from lathe.compressor.pipeline.timing_verdict import timed_until_clear
from lathe.compressor.pipeline.vocabulary import ByteCount, whole_loss_per_byte

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Verified:
    """The measurements of the finished artefact.

    Attributes:
        timing: Its latency against dense, where it was exported for the backend.
        dense: The dense model's quality.
        subnet: The subnet's quality.
        evaluation_text: What both were scored on, for people.
        samples: What both write after the same prompts, before quantization; none without a tokenizer.
        parity: The largest difference between the logits of transformers and of the engine of the graph,
            relative to the logits' standard deviation, where there is a graph of the checkpoint's values.
        quantization: What quantization did to the matrices and to the loss of the dense model and the
            subnet, where there is a graph of quantized values.
        cache: The graph's KV cache, where it is int8.
        loss_per_byte: The losses of the given model, of the dense one with the kept tokens, and of the subnet
            by byte of text, where the vocabulary was cut.
        zeros: The share of zeros in the matrices of layers, where they have a pattern.
    """

    timing: Comparison | None
    dense: Quality
    subnet: Quality
    evaluation_text: str
    samples: list[dict[str, Any]]
    parity: float | None = None
    quantization: Quantization | None = None
    cache: KvCache | None = None
    loss_per_byte: LossPerByte | None = None
    zeros: float | None = None

    @property
    def loss_increase(self) -> float:
        """The subnet's loss over dense's in nats per token, as the graph is served."""
        if self.quantization and "loss" in self.quantization:
            return self.quantization["loss"]["subnet"] - self.quantization["loss"]["dense"]
        if self.cache and "loss" in self.cache:
            return self.cache["loss"]["int8"] - self.dense.loss
        return self.subnet.loss - self.dense.loss


@dataclass(frozen=True)
class _GraphFacts:
    """The quality of the dense model's graph, and the bytes of its weights where no vocabulary is cut."""

    quality: Quality
    weight_bytes: int | None


class Verifier:
    """Verifies the artefacts of a run, one after the other.

    The dense model is scored once, with the first artefact.

    Attributes:
        dense: The dense model's quality, as soon as it is known.
    """

    def __init__(
        self,
        context: RunContext,
        calibration: CalibrationResult,
        dense: Quality | None = None,
        samples: bool = True,
    ) -> None:
        """Prepares the text.

        Args:
            context: The run.
            calibration: Has the text that is held out.
            dense: The dense model's quality, if it is known.
            samples: Whether both models write samples.
        """
        self._context, self._calibration, self.dense = context, calibration, dense
        self._windows, self._text = _evaluation(context, calibration)
        self._samples = (
            SampleCollector.for_run(context.preflight, self._windows) if samples else SampleCollector.none()
        )
        self._graph = exporters.get(graph) if (graph := context.options.graph) else None
        self._quantized_dense: _GraphFacts | None = None
        self._whole_loss: float | None = None

    def under(self, context: RunContext) -> Verifier:
        """Returns one for another target of the run, which knows what this one knows of the dense model."""
        found = copy(self)
        found._context = context
        return found

    def time(self, artefact: Path) -> Comparison | None:
        """Times the artefact against the model that was given, where it was exported for the backend."""
        options, preflight = self._context.options, self._context.preflight
        if not (options.runs and preflight.on_this_machine):
            return None
        return timed_until_clear(options, partial(_time, preflight, artefact), self._context.progress)

    def __call__(
        self, iteration: Iteration, artefact: Path, timing: Comparison | None, scales: Scales | None = None
    ) -> Verified:
        """Loads the artefact in both runtimes, compares them, and scores both models.

        Models that do not fit in memory are read layer by layer instead of loaded by transformers.

        Args:
            iteration: The plan that was exported.
            artefact: Its directory.
            timing: What `time` returned.
            scales: Those of an int8 KV cache.

        Raises:
            UserError: what was loaded is not what was planned, its weights do not have the pattern, or the
                runtimes disagree.
        """
        preflight, windows = self._context.preflight, self._windows
        rounded = self._graph if self._graph and self._graph.rounds(iteration.plan) else None
        title = "verify: reload, parity, perplexity, samples"
        with self._context.progress.stage(title, self._steps(self.dense)) as bar:
            model = checkpoint_model(self._context, self._calibration.model.runner, iteration.plan, artefact)
            compared = self._graph and not rounded
            parity = self._parity(model, artefact, scales) if compared else None
            subnet = quality(model, windows, bar.advance)
            self._samples.collect("subnet", model)
            del model
            dense = self.dense = self.dense or self._score_dense(bar.advance)
        quantization = self._score_quantized(artefact, rounded, dense) if rounded else None
        cache = self._cache(artefact, rounded is not None, dense, subnet) if scales else None
        per_byte = self._per_byte(dense, subnet) if preflight.vocabulary else None
        zeros = share_of_zeros(artefact, preflight.pattern) if preflight.pattern else None
        samples = self._samples.rows()
        return Verified(
            timing, dense, subnet, self._text, samples, parity, quantization, cache, per_byte, zeros
        )

    def _parity(self, model: Any, artefact: Path, scales: Scales | None) -> float | None:
        source, window = self._context.preflight.source, self._windows[0]
        if self._graph and self._graph.graph == "gguf":
            return check_gguf_parity(model, artefact, window, source)
        return check_parity(model, artefact, window, source, scales)

    def _steps(self, known: Quality | None) -> int:
        return len(self._windows) * (1 if known else 2)

    def _score_dense(self, advance: Advance) -> Quality:
        preflight = self._context.preflight
        model = load_dense(preflight.source.path) if preflight.memory.loads_whole else self._calibration.model
        found = quality(model, self._windows, advance)
        self._samples.collect("dense", model)
        return found

    def _per_byte(self, dense: Quality, subnet: Quality) -> LossPerByte:
        """Returns losses by byte of text, which models with different tokens can be compared by."""
        preflight, windows = self._context.preflight, self._windows
        assert preflight.vocabulary is not None
        if self._whole_loss is None:
            with self._context.progress.stage("verify: the whole vocabulary", len(windows)) as bar:
                self._whole_loss = whole_loss_per_byte(
                    preflight.vocabulary, windows, _too_big(preflight), bar.advance
                )
        count = ByteCount.of(open_tokenizer(preflight.source.path), windows)
        return {
            "dense": self._whole_loss,
            "cut": count.loss(dense.loss),
            "subnet": count.loss(subnet.loss),
            "unit": "nats per byte",
        }

    def _cache(self, artefact: Path, rounded: bool, dense: Quality, subnet: Quality) -> KvCache:
        """Returns what an int8 cache costs; where weights are rounded, too, that is a part of their cost."""
        if rounded:
            return {"type": "int8"}
        with self._context.progress.stage("verify: the int8 KV cache", len(self._windows)) as bar:
            served = quality(OnnxModel(artefact), self._windows, bar.advance)
        return {
            "type": "int8",
            "loss": {"float32": subnet.loss, "int8": served.loss, "unit": "nats per token"},
            "perplexity": {"dense": dense.perplexity, "subnet": served.perplexity},
        }

    def _score_quantized(self, artefact: Path, graph: Exporter, dense: Quality) -> Quantization:
        """Scores the quantized graph.

        Where the format rounds all matrices alike, the dense model is rounded to it, too, to nearest, so
        that the cost of pruning is not taken for that of quantization. Where the plan says the bits of each
        block, the dense model stays as it is.

        Args:
            artefact: Its directory.
            graph: The exporter of its graph.
            dense: The quality of the dense model as it is.
        """
        if not installed(graph.graph):
            return cast("Quantization", graph.summary(artefact))
        title = f"verify: what {self._context.options.graph} costs"
        if graph.rounded:
            shape = self._context.preflight.whole.shape
            self._quantized_dense = _GraphFacts(dense, shape.weight_bytes(shape.dense_plan, 4))
        known = self._quantized_dense
        with self._context.progress.stage(title, self._steps(known.quality if known else None)) as bar:
            beside = known or self._score_quantized_dense(graph, bar.advance)
            subnet = quality(graph_model(graph, artefact), self._windows, bar.advance)
        summary, size = graph.summary(artefact), beside.weight_bytes
        found: Any = summary | {
            "weight_bytes": summary["weight_bytes"] | ({} if size is None else {"dense": size}),
            "loss": {"dense": beside.quality.loss, "subnet": subnet.loss, "unit": "nats per token"},
            "perplexity": {"dense": beside.quality.perplexity, "subnet": subnet.perplexity},
        }
        return cast("Quantization", found)

    def _score_quantized_dense(self, graph: Exporter, advance: Advance) -> _GraphFacts:
        directory, preflight = self._context.run_dir.fresh("dense"), self._context.preflight
        job = replace(Export.whole(preflight.source), groups=self._context.options.groups)
        graph.write(directory, job)
        size = None if preflight.vocabulary else graph.summary(directory)["weight_bytes"]["after"]
        found = quality(graph_model(graph, directory), self._windows, advance)
        self._quantized_dense = _GraphFacts(found, size)
        shutil.rmtree(directory)
        return self._quantized_dense


def _too_big(preflight: PreflightResult) -> bool:
    """Returns whether memory does not hold the model with its whole vocabulary beside the run."""
    shape, memory = preflight.whole.shape, preflight.memory
    return not memory.loads_whole or 2 * 4 * shape.parameters(shape.dense_plan) > memory.limit


def _time(preflight: PreflightResult, artefact: Path) -> Comparison:
    """Times an artefact against the model that was given."""
    benchmark, whole = preflight.benchmark, preflight.whole.shape
    with benchmark.models([TimedModel(whole.dense_plan, whole.vocab_size)]) as (dense,):
        return benchmark.compare_built(dense, artefact / exporters.get(benchmark.backend.export).folder)


def _evaluation(context: RunContext, calibration: CalibrationResult) -> tuple[torch.Tensor, str]:
    """Returns the windows that both models are scored on, and what they are called in the report."""
    options, evaluation = context.options, context.preflight.texts.evaluation
    if options.evaluation is None or evaluation is None:
        text = f"held-out part of the calibration text ({options.calibration})"
        return calibration.windows[calibration.heldout], text
    return evaluation, options.evaluation
