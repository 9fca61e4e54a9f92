"""`lathe tune`: from options to a study with a report, and to options that are worth taking."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from lathe.artefact.command_options import recorded
from lathe.compressor.compute.progress import Progress
from lathe.compressor.model.checkpoint import Checkpoint, open_checkpoint
from lathe.compressor.model.checkpoint_fingerprint import weight_digests
from lathe.compressor.pipeline.default_bits import with_default_bits
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.pipeline.preflight import run_preflight
from lathe.compressor.pipeline.run_directory import key
from lathe.compressor.tuning.estimate import estimated_seconds
from lathe.compressor.tuning.evaluation_text import write_evaluation_text
from lathe.compressor.tuning.results import Results, write_results
from lathe.compressor.tuning.sampler import samplers
from lathe.compressor.tuning.search import Search
from lathe.compressor.tuning.space import TuningSpace, shown, tuning_space
from lathe.compressor.tuning.study import need, open_study
from lathe.compressor.tuning.trial_log import TrialLog
from lathe.compressor.tuning.trial_runner import TrialRunner, check_tunable
from lathe.compressor.tuning.tune_options import TuneOptions

_TARGETS = ("target-latency", "target-speedup", "target-memory", "keep")


@dataclass(frozen=True)
class Prepared:
    """What is known of a study before a weight is read.

    Attributes:
        options: As they were given.
        base: The run without tuning.
        source: The model.
        space: The points.
    """

    options: TuneOptions
    base: CompressOptions
    source: Checkpoint
    space: TuningSpace

    def identity(self) -> dict[str, Any]:
        """Returns what the trials follow from, by the name that a user knows."""
        given = recorded(self.base)
        target = {name: given.pop(name, None) for name in _TARGETS}
        del given["model"]
        named = {f"value of --{name}": value for name, value in given.items()}
        model = key(self.source.config, weight_digests(self.source))
        return {"model": model, "target": target, "search space": self.space.to_json(), **named}


def prepare(options: TuneOptions) -> Prepared:
    """Checks what can be checked in no time.

    Raises:
        UserError: an extra is missing, the space is none, or options do not go together.
    """
    need("optuna")
    need(samplers.get(options.sampler).needs)
    base = with_default_bits(options.compression())
    source = open_checkpoint(base.model)
    return Prepared(options, base, source, tuning_space(options.tune, options.space, base, source.shape))


def dry_run(options: TuneOptions, progress: Progress) -> dict[str, Any]:
    """Returns the space, and about how long the trials take; writes nothing.

    Raises:
        UserError: the input is bad.
    """
    prepared = prepare(options)
    check_tunable(run_preflight(prepared.base, progress))
    trials = min(options.most_trials or prepared.space.size, prepared.space.size)
    seconds = estimated_seconds(prepared.base, prepared.source.shape, prepared.space, trials, options.halving)
    return {
        "model": prepared.source.name,
        "sampler": options.sampler,
        "space": prepared.space.to_json(),
        "points": prepared.space.size,
        "default": shown(prepared.space.given),
        "trials": trials,
        "seconds": seconds if options.time_budget is None else min(seconds, options.time_budget),
    }


def tune(options: TuneOptions, progress: Progress) -> dict[str, Any]:
    """Runs the trials that are still to run, and writes the report and the plot.

    Returns:
        The report, which is OUT/tuning.json, too.

    Raises:
        UserError: the input is bad, which is found before a weight is read; or the run without tuning fails.
    """
    prepared, out = prepare(options), options.out
    with open_study(out, prepared.identity()) as study:
        runner = _runner(prepared, progress)
        log = TrialLog(progress, options.most_trials, options.time_budget)
        search = Search(
            study,
            prepared.space,
            runner,
            prepared.base.calibration_tokens,
            options.seed,
            options.most_trials,
            options.time_budget,
            options.halving,
            log,
        )
        log.resumed(search)
        with progress.stage("tune: trials", options.most_trials or prepared.space.size) as bar:
            log.bar = bar
            bar.advance(search.done)
            search.run_default()
            samplers.get(options.sampler).search(search)
        results = Results(study, prepared.space, runner, options.confirm)
        other_seeds = results.confirm_gain(progress)
        return write_results(options, results, other_seeds)


def _runner(prepared: Prepared, progress: Progress) -> TrialRunner:
    """Checks the run without tuning as `compress` does, and gives it its held-out text."""
    base = prepared.base
    preflight = run_preflight(base, progress)
    check_tunable(preflight)
    if base.evaluation is None:
        directory = prepared.options.out.absolute()
        text = write_evaluation_text(prepared.source, directory, progress)
        base = replace(base, evaluation=str(text))
    return TrialRunner(base, preflight)
