"""What a study found: the best options, how flat the optimum is, and whether the gain is one."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from lathe.artefact.atomic_files import write_bytes, write_json
from lathe.artefact.command_options import recorded
from lathe.compressor.compute.progress import Progress
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.tuning.flatness import complete, gain_over_default, importances, spread_of_best
from lathe.compressor.tuning.plot import plot
from lathe.compressor.tuning.space import TuningSpace, option_values
from lathe.compressor.tuning.study import Record, records
from lathe.compressor.tuning.trial_runner import TrialRunner
from lathe.compressor.tuning.tune_options import TuneOptions

FORMAT = "lathe-tuning/1"
DOCUMENT, PLOT = "tuning.json", "tuning.svg"
_SEEDS = "other seeds"


@dataclass(frozen=True)
class Results:
    """The trials of a study that has come to its end.

    Attributes:
        study: An `optuna.Study`.
        space: The points.
        runner: Ran them.
        confirm: The number of other seeds that the default and the best are run with.
    """

    study: Any
    space: TuningSpace
    runner: TrialRunner
    confirm: int

    @property
    def trials(self) -> list[Record]:
        """The trials that were run, in order."""
        return [r for r in records(self.study) if r.state != "running" and not r.repeated]

    @property
    def best(self) -> Record:
        """The complete trial of least loss."""
        return complete(self.trials)[0]

    @property
    def default(self) -> Record:
        """The run without tuning."""
        return self.trials[0]

    def confirm_gain(self, progress: Progress) -> list[tuple[float, float]]:
        """Runs the default and the best with other seeds, or takes their losses from the database.

        Returns:
            (the default's loss, the best's) of each seed; none where the default is the best.
        """
        if self.best.number == self.default.number or not self.confirm:
            return []
        found = []
        with progress.stage("tune: other seeds", self.confirm) as bar:
            for seed in range(1, self.confirm + 1):
                default, best = (self._with_seed(record, seed) for record in (self.default, self.best))
                found.append((default, best))
                bar.advance()
        return found

    def _with_seed(self, record: Record, seed: int) -> float:
        name = f"trial {record.number}, seed +{seed}"
        known = dict(self.study.user_attrs.get(_SEEDS, {}))
        if name not in known:
            known[name] = self.runner(self.values(record), seed=seed).loss_increase
            self.study.set_user_attr(_SEEDS, known)
        return float(known[name])

    def values(self, record: Record) -> dict[str, Any]:
        """Returns a trial's values by knob."""
        return self.space.given if record.point is None else self.space.at(record.point)

    def options(self, record: Record) -> CompressOptions:
        """Returns the options of a trial."""
        return replace(self.runner.base, **option_values(self.values(record)))

    def to_json(self, sampler: str, other_seeds: list[tuple[float, float]]) -> dict[str, Any]:
        """Returns the report."""
        trials, best, default = self.trials, self.best, self.default
        rows = [_row(number, record) for number, record in enumerate(trials)]
        assert best.loss is not None
        assert default.loss is not None
        return {
            "format": FORMAT,
            "model": self.runner.preflight.source.name,
            "sampler": sampler,
            "space": self.space.to_json(),
            "points": self.space.size,
            "unit": "nats per token over the dense model, on held-out text",
            "evaluation": self.runner.base.evaluation,
            "trials": rows,
            "default": rows[0],
            "best": next(row for row, r in zip(rows, trials, strict=True) if r.number == best.number),
            "spread": spread_of_best(trials),
            "importance": importances(self.space, trials),
            "gain": gain_over_default(default.loss, best.loss, other_seeds),
            "seconds": sum(record.seconds for record in trials),
        }


def write_results(options: TuneOptions, results: Results, other_seeds: list[tuple[float, float]]) -> Any:
    """Writes the report, the plot, and the options where that was asked for; returns the report."""
    document = results.to_json(options.sampler, other_seeds)
    write_json(options.out / DOCUMENT, document)
    title = f"{document['model']}: {len(document['trials'])} trials of {options.sampler}"
    write_bytes(options.out / PLOT, plot(title, results.trials).encode())
    if options.save:
        config = recorded(results.options(results.best))
        if options.save.suffix == ".json":
            write_json(options.save, config)
        else:
            write_bytes(options.save, "".join(f"{k}: {json.dumps(v)}\n" for k, v in config.items()).encode())
    return document


def _row(number: int, record: Record) -> dict[str, Any]:
    """Returns a trial as the report has it."""
    names = ("values", "seconds", "ms", "perplexity", "error")
    facts = {name: record.facts[name] for name in names if record.facts.get(name) is not None}
    row = {"number": number, "state": record.state, "loss_increase": record.loss, **facts}
    return row | ({} if record.first is None else {"loss_increase_on_fewer_tokens": record.first})
