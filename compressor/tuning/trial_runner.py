"""One trial: the stages of `compress` with a point's options, as far as the loss of the artefact."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from lathe.artefact.atomic_files import write_json
from lathe.artefact.errors import UserError
from lathe.artefact.plan import Plan
from lathe.compressor.compute.progress import Progress
from lathe.compressor.evaluate import Quality
from lathe.compressor.latency.cache import cached_table
from lathe.compressor.latency.table import LatencyTable
from lathe.compressor.pipeline.artefact_maker import ArtefactMaker
from lathe.compressor.pipeline.calibrate import calibrate
from lathe.compressor.pipeline.latency_loop import LatencyLoop
from lathe.compressor.pipeline.open_run import open_run
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.pipeline.preflight import run_preflight
from lathe.compressor.pipeline.preflight_result import PreflightResult
from lathe.compressor.pipeline.run_context import RunContext
from lathe.compressor.pipeline.search import Searcher
from lathe.compressor.pipeline.verify import Verifier
from lathe.compressor.search.mixed_space import MixedSpace
from lathe.compressor.search.space import make_space
from lathe.compressor.tuning.space import option_values

_TABLE = "latency-table.json"
_BIG = ("whole", "reformed", "rounded", "layer", "dense")
"""Results that are too big to keep those of all trials; `whole` says which of `reformed` to take."""


@dataclass(frozen=True)
class Outcome:
    """What came of a trial.

    Attributes:
        loss_increase: The artefact's loss over dense's, nats per token, as `compress` verifies it.
        seconds: What the trial took.
        plan: The widths, and the bits.
        ms: What the plan took, or is predicted to take; None without a target of latency.
        perplexity: Of the artefact's checkpoint.
    """

    loss_increase: float
    seconds: float
    plan: Plan
    ms: float | None
    perplexity: float


@dataclass
class TrialRunner:
    """Runs trials in this process, one after another.

    They share a run directory, and so calibration text, statistics, sensitivities and timings as far as their
    options are the same; the latency table; and what the dense model scores.

    Attributes:
        base: The options of a run without tuning.
        preflight: What is known of that run.
        progress: Shows what a trial is doing.
    """

    base: CompressOptions
    preflight: PreflightResult
    progress: Progress = field(default_factory=lambda: Progress(quiet=True))
    _dense: Quality | None = field(init=False, default=None)

    def __call__(self, values: Mapping[str, Any], *, seed: int = 0, draft: bool = False) -> Outcome:
        """Runs a trial.

        Args:
            values: By knob.
            seed: Is added to the seed of the run.
            draft: Whether the latency table's word is taken for the plan's latency, instead of measuring it.

        Raises:
            UserError: the trial failed; no plan kept the target, for example.
        """
        start = time.monotonic()
        options = replace(self.base, seed=self.base.seed + seed, **option_values(values))
        preflight = run_preflight(options, self.progress, self.preflight.ends)
        preflight = replace(preflight, table=self.table)
        if draft:
            preflight = replace(preflight, on_this_machine=False)
        with open_run(options, preflight, self.progress) as context:
            found = self._run(context)
            for name in _BIG:
                context.run_dir.forget(name)
        return replace(found, seconds=time.monotonic() - start)

    def _run(self, context: RunContext) -> Outcome:
        calibration = calibrate(context)
        loop = LatencyLoop(context, Searcher(context, calibration), calibration.key)
        verifier = Verifier(context, calibration, self._dense, samples=False)
        iteration = loop.find_plan()
        made = ArtefactMaker(context, calibration, verifier)(iteration)
        verified = verifier(iteration, made.path, None, made.scales)
        self._dense = verifier.dense
        return Outcome(
            verified.loss_increase,
            0.0,
            iteration.plan,
            iteration.measured_ms or iteration.predicted_ms,
            verified.subnet.perplexity,
        )

    @cached_property
    def table(self) -> LatencyTable | None:
        """The latency table that all trials search, where they have a target of latency.

        It is kept beside the trials, so that a command that goes on with them has the same.
        """
        if not self.base.timed:
            return None
        if self.preflight.table:
            return self.preflight.table
        path = self.base.out.with_name(_TABLE)
        if path.exists():
            return LatencyTable.from_json(json.loads(path.read_text()))
        widths = make_space(self.preflight.source.shape)
        space = MixedSpace(widths, self.base.block_bits) if self.base.block_bits else widths
        table = cached_table(self.preflight.benchmark, space, refresh=False)
        write_json(path, table.to_json())
        return table


def check_tunable(preflight: PreflightResult) -> None:
    """Refuses a run that has nothing to tune.

    Raises:
        UserError: the dense model already meets the target.
    """
    if preflight.already_met:
        raise UserError(
            "the dense model already meets the target, so there is nothing to tune", "Ask for more."
        )
