"""Lathe's own methods and their variants, run through the code that `compress` runs."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

from benchmarks.quality.setting import Setting, Subnet
from lathe.compressor.compute.progress import Progress
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.pipeline.calibrate import CalibrationResult, calibrate
from lathe.compressor.pipeline.latency_loop import Iteration, LatencyLoop
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.pipeline.preflight import run_preflight
from lathe.compressor.pipeline.preflight_result import PreflightResult
from lathe.compressor.pipeline.reconstruct import finished_layer, reconstruct
from lathe.compressor.pipeline.run_context import RunContext
from lathe.compressor.pipeline.run_directory import RunDirectory
from lathe.compressor.pipeline.search import Searcher
from lathe.compressor.statistics import LayerStatistics


@dataclass(frozen=True)
class Choice:
    """The winner of a search with what its reconstruction needs."""

    context: RunContext
    calibration: CalibrationResult
    iteration: Iteration


@dataclass(frozen=True)
class Product:
    """A run of `compress` that stops before it exports."""

    context: RunContext
    calibration: CalibrationResult

    @classmethod
    def open(cls, options: CompressOptions, progress: Progress) -> Product:
        """Runs preflight and calibration."""
        preflight = _preflight(options, progress)
        context = RunContext(options, preflight, RunDirectory(options.out), progress)
        return cls(context, calibrate(context))

    def setting(self) -> Setting:
        found = self.calibration
        statistics = [
            LayerStatistics(**{field.name: layer.saved[field.name] for field in fields(LayerStatistics)})
            for layer in found.statistics
        ]
        return Setting(
            self.context.preflight.source,
            found.model.runner,
            found.model.head,
            found.model.embedding,
            found.model.layers,
            found.windows[~found.heldout],
            found.windows[found.heldout],
            statistics,
            self.context.options.seed,
            self.context.progress,
        )

    def subnet(self, setting: Setting, method: str, keep: float) -> Subnet:
        """What `compress --method METHOD --keep KEEP` makes."""
        choice = self.search(method, keep, setting.evaluations)
        found = choice.iteration
        return setting.subnet(self.finish(choice), candidates=found.candidates, plan=found.plan)

    def search(self, method: str, keep: float, evaluations: int | None = None) -> Choice:
        """Returns a method's winner, not reconstructed yet."""
        options = replace(self.context.options, keep=keep, method=method, evaluations=evaluations)
        preflight = _preflight(options, Progress(quiet=True))
        context = replace(self.context, options=options, preflight=preflight)
        calibration = self.calibration
        if _reading(preflight) != _reading(self.context.preflight):
            calibration = calibrate(context)
        loop = LatencyLoop(context, Searcher(context, calibration), calibration.key)
        return Choice(context, calibration, loop.find_plan())

    def finish(self, choice: Choice) -> list[Weights]:
        """Returns the reconstructed layers, float32."""
        name = reconstruct(choice.context, choice.calibration, choice.iteration)
        count = len(choice.calibration.model.layers)
        return [finished_layer(choice.context.run_dir, name, index) for index in range(count)]


def _reading(preflight: PreflightResult) -> tuple[str, bool]:
    """Returns what a method's statistics and ranking depend on."""
    return preflight.method.importance, preflight.method.bfloat16


def _preflight(options: CompressOptions, progress: Progress) -> PreflightResult:
    """Checks a run that stays in memory where that is free: rivals read statistics that disks do not keep."""
    found = run_preflight(options, progress)
    return replace(found, memory=replace(found.memory, most=None))


def options_for(model: str, text: str, tokens: int, seed: int, work: Path) -> CompressOptions:
    """A run that times nothing, with a directory below `work` that later runs on the same text share.

    Its statistics, which rivals are given, are of float32 products.
    """
    return CompressOptions(
        model=model,
        method="lathe",
        out=work / f"{Path(model).name}-{tokens}-{seed}",
        keep=1.0,
        context=1,
        export=("checkpoint",),
        calibration=text,
        calibration_tokens=tokens,
        seed=seed,
    )
