"""Measuring: the table of a machine, and one plan against the dense model."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lathe.artefact.fingerprint import fingerprint
from lathe.artefact.plan import Plan
from lathe.artefact.report_format import LatencyPrecision
from lathe.compressor.compute.progress import Progress
from lathe.compressor.latency.backend import LatencyBackend
from lathe.compressor.latency.built_models import BuiltModels, TimedModel
from lathe.compressor.latency.clock import SYSTEM, Clock
from lathe.compressor.latency.comparison import Comparison, precision_of
from lathe.compressor.latency.designs import designs, formats_of
from lathe.compressor.latency.effort import PROOF, SECONDS, TABLE, Effort
from lathe.compressor.latency.session import GROUP, Session
from lathe.compressor.latency.table import LatencyTable, fit
from lathe.compressor.latency.workload import Workload
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.search.space import Choices

_DECODER_BYTES = 256 * 2**20
_FEW_ROWS = 4096
_BUSY = 3.0
"""There is a warning where the standard error is larger than this multiple of the one that was wanted."""


@dataclass(frozen=True)
class LatencyBenchmark:
    """Times plans of one model on one backend.

    Attributes:
        source: The dense model.
        backend: The engine.
        workload: The work.
        threads: Of the engine; None: its own choice.
        progress: Is told before and after each measurement.
        seconds: The time to measure a table in, where no weights are rounded; a plan or an artefact has half
            of it.
        clock: What is read.
    """

    source: Checkpoint
    backend: LatencyBackend
    workload: Workload
    threads: int | None
    progress: Progress
    seconds: float = SECONDS
    clock: Clock = SYSTEM
    built: BuiltModels = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "built", BuiltModels(self.backend, self.source))

    @property
    def proof(self) -> Effort:
        """The effort for one plan or artefact."""
        return replace(PROOF, seconds=self.seconds / 2)

    def compare(
        self, plan: Plan, effort: Effort | None = None, title: str = "measure: the plan against dense"
    ) -> Comparison:
        """Times a plan with random weights against the dense shape; timing does not depend on the values."""
        dense, subnet = TimedModel(self.source.shape.dense_plan), TimedModel(plan)
        return self.time([dense, subnet], effort or self.proof, title)[0]

    def keep_dense(self) -> AbstractContextManager[None]:
        """Within the block, all plans are compared with one dense model, built once."""
        return self.built.keep(TimedModel(self.source.shape.dense_plan))

    def compare_built(
        self,
        dense: Path,
        subnet: Path,
        effort: Effort | None = None,
        title: str = "verify: the artefact against dense",
    ) -> Comparison:
        """Times two exported models side by side."""
        effort = effort or self.proof
        session = Session(self, effort, groups=1)
        with self.progress.stage(title, 1):
            timings = session.group([dense, subnet])
        found = session.compared(timings[0], timings[1])
        self._say(title, found.precision, effort)
        return found

    def time(self, models: Sequence[TimedModel], effort: Effort, title: str) -> list[Comparison]:
        """Times models with random weights against the first of them.

        At most `GROUP` are built and loaded at a time: the first, and others in turn. A group with a noisy
        ratio is loaded again, and no other one is.

        Returns:
            A comparison for each model but the first.
        """
        reference, *others = models
        groups = [others[i : i + GROUP - 1] for i in range(0, len(others), GROUP - 1)]
        self._announce(models, len(groups), effort, title)
        session, pairs = Session(self, effort, len(groups)), []
        with self.progress.stage(title, len(groups)) as bar, self.built.keep(reference):
            for number, group in enumerate(groups, 1):
                with self.models([reference, *group]) as directories:
                    dense, *timings = session.group(directories)
                pairs += [(dense, timing) for timing in timings]
                bar.advance()
                if number == 1 and (expected := len(groups) * session.seconds) > 1.5 * effort.seconds > 0:
                    self.progress.say(f"  {title}: loading is slow, so about {expected:.0f} s in all")
        found = [session.compared(dense, timing) for dense, timing in pairs]
        self._say(title, precision_of(found), effort)
        return found

    def table(self, space: Choices) -> LatencyTable:
        """Fits the table from about a dozen whole models, timed against the dense one.

        Deep or wide models are measured with fewer layers: the time of a layer does not depend on their
        number. All but one have few vocabulary rows, and one is the dense model with all of them, so that
        what the head takes is a term of its own. Each format of rounded weights in the space adds about five
        models, and as much time for each as the others have.
        """
        models = self._designs(space)
        effort = replace(TABLE, seconds=self.seconds * len(models) / (len(models) - _rounded(models)))
        found = self.time(models, effort, "measure: latency table")
        reference = statistics.median(ms for comparison in found for ms in comparison.dense.repeats)
        times = [reference, *(reference * comparison.ratio for comparison in found)]
        heads = [model.vocabulary / self.source.shape.vocab_size for model in models]
        errors = [0.0, *(comparison.paired.standard_error for comparison in found)]
        terms, tile = fit([model.plan for model in models], times, heads, errors)
        machine = fingerprint(self.backend.versions(), self.threads)
        rows = _rows(models, times, found)
        table = LatencyTable(self.workload, machine, terms, rows, tile=tile, precision=precision_of(found))
        dense = TimedModel(self.source.shape.dense_plan, self.source.shape.vocab_size)
        measured = dict(zip(models, times, strict=True)).get(dense)
        rows[0]["dense_ms"] = table.predict(dense.plan) if measured is None else measured
        return table

    def _designs(self, space: Choices) -> list[TimedModel]:
        """Returns the models of a table: the reference first, and those with the whole head last.

        These are the dense model with its head in each of its formats.
        """
        shape = self.source.shape
        per_layer = 4 * shape.decoder_parameters(shape.dense_plan) // shape.num_layers
        layers = min(shape.num_layers, max(2, _DECODER_BYTES // per_layer))
        few = max(1, min(_FEW_ROWS, shape.vocab_size // 2))
        plans = designs(space, shape.dense_plan, layers, formats_of(space))
        heads = [replace(plans[0], head_bits=bits) for bits in space.levels("head")]
        models = [TimedModel(plan, few) for plan in plans]
        models += [TimedModel(plan, shape.vocab_size) for plan in heads]
        return list(dict.fromkeys(models))

    @contextmanager
    def models(self, models: Sequence[TimedModel]) -> Iterator[list[Path]]:
        """Yields the directories of models with random weights, which are removed at the end."""
        with ExitStack() as stack:
            yield [stack.enter_context(self.built.build(model)) for model in models]

    def _announce(self, models: Sequence[TimedModel], groups: int, effort: Effort, title: str) -> None:
        """Says before a measurement what it takes."""
        if effort.seconds:
            parts = f" in {groups} groups" if groups > 1 else ""
            text = f"  {title}: {len(models)} models{parts}, at most about {effort.seconds:.0f} s"
            if effort.seconds > self.seconds:
                text += f" ({self.seconds:.0f} s without the {_rounded(models)} of rounded weights)"
            self.progress.say(text)

    def _say(self, title: str, precision: LatencyPrecision, effort: Effort) -> None:
        """Says after a measurement what precision was reached."""
        error, worst = precision["standard_error"], precision["largest_standard_error"]
        if error is None or worst is None:
            return
        most = f", {100 * worst:.2g} % at most" if worst > error else ""
        text = f"  {title}: ratios within {100 * error:.2g} % (standard error{most}) after "
        text += f"{precision['seconds']:.0f} s"
        if worst > effort.precision:
            text += f"; {100 * effort.precision:.2g} % was wanted"
        if precision["preempted"]:
            text += f"; {precision['preempted']} preempted turns were done again"
        if precision["corrected"]:
            text += f"; the processor was shared: of {precision['corrected']} turns, processor time counts"
        self.progress.say(text)
        if error > _BUSY * effort.precision:
            self.progress.warn(
                f"the machine was too busy: {title.removeprefix('measure: ')} has a standard error of "
                f"{100 * error:.2g} %, {100 * effort.precision:.2g} % was wanted; a higher --measure-seconds "
                "helps"
            )


def _rounded(models: Sequence[TimedModel]) -> int:
    """Returns how many models have weights that are rounded."""
    return sum(model.plan.rounded for model in models)


def _rows(
    models: Sequence[TimedModel], times: Sequence[float], found: Sequence[Comparison]
) -> list[dict[str, Any]]:
    """Returns what was measured, as a table keeps it: the reference, and each model beside it."""
    rows: list[dict[str, Any]] = [
        {"plan": model.plan.to_json(), "vocabulary": model.vocabulary, "measured_ms": ms}
        for model, ms in zip(models, times, strict=True)
    ]
    for row, comparison in zip(rows[1:], found, strict=True):
        row |= {"turns_ms": comparison.subnet.repeats, "dense_turns_ms": comparison.dense.repeats}
    return rows
