"""Making artefacts: by `compress`, or by `lathe export` where weights are rounded to nearest."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.bits.engines import ByFile, engine_files
from benchmarks.bits.facts import facts
from benchmarks.bits.gguf_files import gguf_facts, quantize_gguf
from benchmarks.bits.rows import ALREADY_MET, MADE, REFUSED, Document, Row
from benchmarks.bits.settings import Settings
from benchmarks.bits.shared_run import SharedRuns
from benchmarks.bits.variants import LLAMACPP, MIXED, ONNX, REFERENCE, VARIANTS
from lathe.artefact.atomic_files import write_json
from lathe.artefact.errors import UserError
from lathe.artefact.gguf_suffix import MODEL_FILE
from lathe.artefact.onnx.graph_format import GRAPH
from lathe.compressor.compute.progress import Progress
from lathe.compressor.export import quantizers
from lathe.compressor.export.dense import export_dense
from lathe.compressor.latency.backend import backends
from lathe.compressor.latency.built_models import TimedModel
from lathe.compressor.latency.measure import LatencyBenchmark
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.model.groups import BY_ERROR
from lathe.compressor.pipeline.compress import compress
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.pipeline.outcome import Status

_PLAIN = ONNX
ON_LLAMACPP: dict[str, Any] = {"engine": LLAMACPP, "export": ("checkpoint", "gguf")}
_ROUNDED_ONCE_MORE = {v.of for v in VARIANTS.values() if v.of != v.name}
"""Variants whose checkpoints are needed after their graphs are made."""


class Maker:
    """Makes the artefact of a row; what is on disk is not made again."""

    def __init__(self, settings: Settings, document: Document, source: Checkpoint) -> None:
        self._settings, self._document, self._source = settings, document, source
        self._shared = SharedRuns(settings.place / "shared", settings.quiet)

    def path(self, row: Row) -> Path:
        """Returns where the artefact of a row lies, or will lie."""
        return self._settings.place / row.artefact

    def __call__(self, row: Row) -> None:
        """Makes an artefact and says in the row what came of it.

        Raises:
            UserError: the model or the text will not do.
        """
        if not engine_files(self.path(row)).exists():
            self._settings.place.mkdir(parents=True, exist_ok=True)
            row.status, row.reason = self._make(row)
        elif row.status != MADE:
            row.status, row.reason = MADE, None
        if row.status == MADE and not row.facts:
            row.facts = self._facts(row)

    def _facts(self, row: Row) -> dict[str, Any]:
        if row.kind.gguf:
            return gguf_facts(self.path(row) / MODEL_FILE)
        return facts(self.path(row), self._source.shape, row.kind.scheme)

    def _make(self, row: Row) -> tuple[str, str | None]:
        out, kind = self.path(row), row.kind
        if row.variant == REFERENCE:
            export_dense(self._settings.model, out, "onnx")
            return MADE, None
        if kind.gguf:
            return self._quantize(kind.gguf, out)
        if kind.compensated or kind.scheme is None:
            return self._compress(row, out)
        model = self._settings.model
        if kind.searched:
            pruned = self._settings.place / row.rounds
            if not (pruned / GRAPH).is_file():
                return REFUSED, f"there is no {row.rounds} to round"
            model = str(pruned)
        quantizers.get(f"onnx-{kind.scheme}")(model, out, 1, None, BY_ERROR)
        return MADE, None

    def _quantize(self, kind: str, out: Path) -> tuple[str, str | None]:
        dense = self._settings.place / "dense-gguf"
        try:
            if not dense.exists():
                export_dense(self._settings.model, dense, "gguf")
            quantize_gguf(dense / MODEL_FILE, out / MODEL_FILE, kind)
        except UserError as error:
            return REFUSED, str(error)
        return MADE, None

    def _compress(self, row: Row, out: Path) -> tuple[str, str | None]:
        options = self._options(row, out)
        self._shared.lend(options)
        progress = Progress(self._settings.quiet)
        progress.say(f"making {row.artefact}")
        try:
            outcome = compress(options, progress)
        except UserError as error:
            self._shared.forget(out)
            return REFUSED, str(error)
        if outcome.status is Status.ALREADY_MET:
            self._shared.forget(out)
            return ALREADY_MET, None
        if row.variant not in _ROUNDED_ONCE_MORE:
            for file in out.glob("*.safetensors"):
                file.unlink()
        return MADE, None

    def _options(self, row: Row, out: Path) -> CompressOptions:
        """Returns the options of `compress` for a row; a dense model is made by its plan."""
        kind = row.kind
        stored = {"kv_cache": kind.kv_cache} | (ON_LLAMACPP if kind.engine == LLAMACPP else {})
        base = partial(options_for, self._settings, kind.scheme, row.batch_size, out, **stored)
        if row.target is not None:
            return base(target_speedup=row.target * self._conversion(kind.dense_backend, row.batch_size))
        plan = self._settings.place / "dense-plan.json"
        write_json(plan, self._source.shape.dense_plan.to_json())
        return base(plan=plan, force=True)

    def _conversion(self, backend: str, batch_size: int) -> float:
        """Returns what a target is multiplied by: `compress` takes it of the dense model on its backend."""
        if backend == _PLAIN:
            return 1.0
        return self._document.conversion(batch_size, backend, lambda: self._ratio(backend, batch_size))

    def _ratio(self, backend: str, batch_size: int) -> float:
        """Times the dense model on a backend against float32, both with random weights."""
        plain, other = (benchmark(self._settings, self._source, batch_size, b) for b in (_PLAIN, backend))
        dense = [TimedModel(self._source.shape.dense_plan)]
        with plain.models(dense) as (reference,), other.models(dense) as (model,):
            return plain.compare_built(reference, model, title=f"measure: dense on {backend}").ratio


def options_for(
    settings: Settings, scheme: str | None, batch_size: int, out: Path, **given: Any
) -> CompressOptions:
    """Returns the options of one run of `compress`; `given` has its target."""
    return CompressOptions(
        model=settings.model,
        out=out,
        bits={MIXED: "auto", None: "16"}.get(scheme),
        quantize=None if scheme == MIXED else scheme,
        calibration=settings.text,
        calibration_tokens=settings.tokens,
        batch_size=batch_size,
        context=settings.context,
        threads=settings.threads,
        method=settings.method,
        evaluations=settings.evaluations,
        seed=settings.seed,
        measure_seconds=settings.measure_seconds,
        **given,
    )


def benchmark(
    settings: Settings, source: Checkpoint, batch_size: int, backend: str = "onnx"
) -> LatencyBenchmark:
    """Returns what times models as `compress` does."""
    workload = options_for(settings, None, batch_size, settings.place, keep=1.0).workload_on(source.positions)
    return LatencyBenchmark(
        source,
        ByFile(backends.get(backend)),
        workload,
        settings.threads,
        Progress(settings.quiet),
        settings.measure_seconds,
    )
