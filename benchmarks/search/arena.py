"""One model with its calibration text and its latency table: where all engines search, and how they end."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from benchmarks.quality.memory import Peak
from benchmarks.quality.setting import Setting
from benchmarks.search.counting import CountedRunner
from benchmarks.search.engines import Engine
from lathe.artefact.errors import UserError
from lathe.compressor.compute.progress import Progress
from lathe.compressor.latency.cache import cached_comparison
from lathe.compressor.latency.table import LatencyTable
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.pipeline.calibrate import CalibrationResult, calibrate
from lathe.compressor.pipeline.latency_loop import Iteration, LatencyLoop
from lathe.compressor.pipeline.open_run import open_run
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.pipeline.preflight import run_preflight
from lathe.compressor.pipeline.reconstruct import finished_layer, reconstruct
from lathe.compressor.pipeline.run_context import RunContext
from lathe.compressor.pipeline.search import Searcher
from lathe.compressor.search.method import Method, Problem, SearchResult
from lathe.compressor.search.sensitivity_table import MEASURED
from lathe.compressor.search.trace import Trace


@dataclass(frozen=True)
class Found:
    """What an engine found, and what that took.

    Attributes:
        result: The plan, and what it keeps.
        seconds: Of the search, without the table of sensitivities.
        cpu_seconds: Those that this process computed meanwhile, all threads together.
        table_cpu_seconds: Those of that table, where the engine reads one.
        forward_tokens: Tokens through the whole model, table included.
        backward_tokens: Those that derivatives went back through, too, table not included.
        peak_memory_bytes: Resident memory at its highest, table not included.
        heldout: The KL of masks on held-out text, where the engine has some, those of its start first.
        finalists: The KL of the plans that it chooses from in the end, the default's first.
    """

    result: SearchResult
    seconds: float
    cpu_seconds: float
    table_cpu_seconds: float
    forward_tokens: float
    backward_tokens: float
    peak_memory_bytes: int
    heldout: list[float]
    finalists: list[float]


@dataclass
class Arena:
    """A run of `compress --method fast` that waits for a plan.

    Attributes:
        context: The run.
        calibration: What it read.
        table: Milliseconds of every level.
    """

    context: RunContext
    calibration: CalibrationResult
    table: LatencyTable

    @classmethod
    @contextmanager
    def open(cls, options: CompressOptions, progress: Progress) -> Iterator[Arena]:
        """Calibrates and measures the table, or takes both from an earlier run; closes the run at the end.

        Raises:
            UserError: the model, the text or the profile will not do.
        """
        preflight = run_preflight(options, progress)
        preflight = replace(preflight, memory=replace(preflight.memory, most=None))
        with open_run(options, preflight, progress) as context:
            calibration = calibrate(context)
            loop = LatencyLoop(context, Searcher(context, calibration), calibration.key)
            if loop.table is None:
                raise UserError("nothing is timed", "Leave --export as it is.")
            yield cls(context, calibration, loop.table)

    @cached_property
    def setting(self) -> Setting:
        """The dense model, as judges read it."""
        found = self.calibration
        return Setting(
            self.context.preflight.source,
            found.model.runner,
            found.model.head,
            found.model.embedding,
            found.model.layers,
            found.windows[~found.heldout],
            found.windows[found.heldout],
            [],
            self.context.options.seed,
            self.context.progress,
        )

    def limit(self, speedup: float) -> float:
        """Returns the milliseconds of a budget."""
        return self.table.dense_ms / speedup

    def search(self, engine: Engine, speedup: float) -> Found:
        """Runs an engine on a budget."""
        method = self._method(engine)
        context = replace(self.context, preflight=replace(self.context.preflight, method=method))
        calibration, runner = calibrate(context), CountedRunner(context.preflight.source)
        calibration = replace(calibration, model=replace(calibration.model, runner=runner))
        constraint = self.table.constraint(context.preflight.space, self.limit(speedup))
        problem = Searcher(context, calibration).problem([constraint])
        problem = replace(problem, evaluations=engine.evaluations or method.default_evaluations)
        work = self.context.run_dir.path
        trace, table_cpu, tokens = work / "engine-trace.jsonl", 0.0, 0.0
        trace.unlink(missing_ok=True)
        if method.sensitivities:
            measured = getattr(method.sensitivities, "keywords", {}).get("measured", MEASURED)
            shared = work / f"engine-table-{calibration.key}-{measured}.jsonl"
            table_cpu, tokens = self._sensitivities(method.sensitivities, problem, runner, shared)
            shutil.copy2(shared, trace)
        start, cpu, peak, before = time.perf_counter(), time.process_time(), Peak(), runner.tokens
        result = method.search(replace(problem, trace=Trace(trace)))
        forward, backward = runner.tokens
        return Found(
            result,
            time.perf_counter() - start,
            time.process_time() - cpu,
            table_cpu,
            tokens + forward - before[0],
            backward - before[1],
            peak.bytes(),
            _values(trace, "heldout "),
            _values(trace, "plan "),
        )

    def _sensitivities(
        self,
        sensitivities: Callable[[Problem], np.ndarray],
        problem: Problem,
        runner: CountedRunner,
        path: Path,
    ) -> tuple[float, float]:
        """Makes the table of sensitivities once; returns the CPU seconds and the tokens that it took."""

        def make() -> dict[str, float]:
            path.unlink(missing_ok=True)
            start = time.process_time()
            sensitivities(replace(problem, trace=Trace(path)))
            return {"seconds": time.process_time() - start, "tokens": runner.tokens[0]}

        facts = self.context.run_dir.json(path.stem, make)
        return facts["seconds"], facts["tokens"]

    def finish(self, result: SearchResult) -> list[Weights]:
        """Returns the layers of a result after the reconstruction that all engines have, float32."""
        iteration = Iteration(result.plan, result.selections, result.fitness, result.evaluations)
        name = reconstruct(self.context, self.calibration, iteration)
        layers: list[Weights] = [
            finished_layer(self.context.run_dir, name, i) for i in range(len(result.plan))
        ]
        self.context.run_dir.forget("reformed")
        for file in self.context.run_dir.path.glob("whole-*.json"):
            file.unlink()
        return layers

    def measured_speedup(self, result: SearchResult) -> float:
        """Returns how much faster a plan is than the dense model, measured now in turns with it."""
        return 1 / float(cached_comparison(self.context.preflight.benchmark, result.plan, False)["ratio"])

    def _method(self, engine: Engine) -> Method:
        """Returns an engine's method, with what its calibration shares with that of all others."""
        own = self.context.preflight.method
        return replace(engine.method, bfloat16=own.bfloat16, whole_rounds=own.whole_rounds)


def _values(trace: Path, beginning: str) -> list[float]:
    """Returns the values in a trace whose keys begin so."""
    rows = map(json.loads, trace.read_text(encoding="utf-8").splitlines())
    return [row["value"] for row in rows if row["key"].startswith(beginning)]
