"""Lathe's own methods and their variants, run through the code that `compress` runs."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

from benchmarks.quality.setting import Setting, Subnet
from lathe.compressor.compute.progress import Progress
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.pipeline.calibrate import CalibrationResult, prepare
from lathe.compressor.pipeline.latency_loop import Iteration, LatencyLoop
from lathe.compressor.pipeline.options import Options
from lathe.compressor.pipeline.preflight import PreflightResult, preflight
from lathe.compressor.pipeline.reconstruct import finished_layer, reform
from lathe.compressor.pipeline.run_directory import RunDirectory
from lathe.compressor.pipeline.search import Searcher
from lathe.compressor.statistics import LayerStatistics


@dataclass(frozen=True)
class Choice:
    """The winner of a search with what its reform needs."""

    card: PreflightResult
    prepared: CalibrationResult
    chosen: Iteration


@dataclass(frozen=True)
class Product:
    """A run of `compress` that stops before it exports."""

    options: Options
    card: PreflightResult
    prepared: CalibrationResult
    run: RunDirectory
    progress: Progress

    @classmethod
    def open(cls, options: Options, progress: Progress) -> Product:
        card, run = preflight(options, progress), RunDirectory(options.out)
        return cls(options, card, prepare(options, card, run, progress), run, progress)

    def setting(self) -> Setting:
        p = self.prepared
        statistics = [
            LayerStatistics(**{field.name: found.saved[field.name] for field in fields(LayerStatistics)})
            for found in p.statistics
        ]
        return Setting(
            self.card.source,
            p.model.runner,
            p.model.head,
            p.model.embedding,
            p.model.layers,
            p.windows[~p.heldout],
            p.windows[p.heldout],
            statistics,
            self.options.seed,
            self.progress,
        )

    def subnet(self, setting: Setting, method: str, keep: float) -> Subnet:
        """What `compress --method METHOD --keep KEEP` makes."""
        choice = self.search(method, keep, setting.evaluations)
        chosen = choice.chosen
        return setting.subnet(self.finish(choice), candidates=chosen.candidates, plan=chosen.plan)

    def search(self, method: str, keep: float, evaluations: int | None = None) -> Choice:
        """A method's winner, not reformed yet."""
        options = replace(self.options, keep=keep, method=method, evaluations=evaluations)
        card, prepared = preflight(options, Progress(quiet=True)), self.prepared
        if card.method.importance != self.card.method.importance:
            prepared = prepare(options, card, self.run, self.progress)
        search = Searcher(options, card, prepared, self.run, self.progress)
        solver = LatencyLoop(options, card, search, prepared.key, self.run, self.progress)
        return Choice(card, prepared, solver.solve())

    def finish(self, choice: Choice) -> list[Weights]:
        """The reformed layers, float32."""
        name = reform(choice.card, choice.prepared, choice.chosen, self.run, self.progress)
        return [finished_layer(self.run, name, i) for i in range(len(choice.prepared.model.layers))]


def options_for(model: str, text: str, tokens: int, seed: int, work: Path) -> Options:
    """A run that times nothing, with a directory below `work` that later runs on the same text share."""
    return Options(
        model=model,
        out=work / f"{Path(model).name}-{tokens}-{seed}",
        keep=1.0,
        context=1,
        export=("checkpoint",),
        calibration=text,
        calibration_tokens=tokens,
        seed=seed,
    )
