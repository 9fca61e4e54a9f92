"""Measuring: the table of a machine, and one plan against the dense model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path

from lathe.artefact.plan import Plan
from lathe.compressor.compute.progress import Progress
from lathe.compressor.latency.backend import LatencyBackend
from lathe.compressor.latency.bench import Timing, interleave, paired_ratio, seconds_per_repeat, uncertainty
from lathe.compressor.latency.fingerprint import fingerprint
from lathe.compressor.latency.table import LatencyTable, designs, fit
from lathe.compressor.latency.workload import Workload
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.search.space import Space

_REPEATS = 3
BUSY = 0.2
_ATTEMPTS = 3
_MAX_DECODER_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Effort:
    """How often models are loaded and timed.

    There are at least `loads` loads, and more until the standard error of every ratio to the first model
    is within `precision`, or there were `most`.
    """

    loads: int
    most: int
    precision: float


TABLE, PROOF, QUICK = Effort(3, 6, 0.01), Effort(6, 12, 0.005), Effort(1, 1, 1.0)


@dataclass(frozen=True)
class Comparison:
    """Milliseconds of a plan and of the dense model, timed in interleaved repeats.

    `ratio` is the median of the ratios of paired repeats.
    """

    dense: Timing
    subnet: Timing

    @property
    def ratio(self) -> float:
        return paired_ratio(self.subnet, self.dense)


@dataclass(frozen=True)
class LatencyBenchmark:
    """Times plans of one model on one backend."""

    source: Checkpoint
    backend: LatencyBackend
    workload: Workload
    threads: int | None
    progress: Progress

    def compare(
        self, plan: Plan, effort: Effort = PROOF, title: str = "measure: the plan against dense"
    ) -> Comparison:
        """Times a plan with random weights against the dense shape; timing does not depend on the values."""
        return Comparison(*self.time([self.source.shape.dense_plan, plan], effort, title))

    def quick(self, plan: Plan) -> Comparison:
        return self.compare(plan, QUICK, "measure: dense and the smallest subnet")

    def compare_built(
        self,
        dense: Path,
        subnet: Path,
        effort: Effort = PROOF,
        title: str = "verify: the artefact against dense",
    ) -> Comparison:
        """Times two exported models side by side."""
        return Comparison(*self._retry_until_quiet([dense, subnet], effort, title))

    def table(self, space: Space) -> LatencyTable:
        """Fits the table from up to 14 whole models, timed in interleaved repeats.

        Deep or wide models are measured with fewer layers: the time of a layer does not depend on their
        number.
        """
        shape = self.source.shape
        per_layer = 4 * shape.decoder_parameters(shape.dense_plan) // shape.num_layers
        layers = min(shape.num_layers, max(2, _MAX_DECODER_BYTES // per_layer))
        plans = designs(space, shape.dense_plan, layers)
        timings = self.time(plans, TABLE, "measure: latency table")
        reference = timings[0].median
        times = [reference * paired_ratio(t, timings[0]) for t in timings]
        terms, tile = fit(plans, times)
        table = LatencyTable(
            self.workload,
            fingerprint(self.backend.versions(), self.threads),
            terms,
            [
                {"plan": plan.to_json(), "measured_ms": ms, "turns_ms": timing.repeats}
                for plan, ms, timing in zip(plans, times, timings, strict=True)
            ],
            tile=tile,
        )
        dense_ms = reference if layers == shape.num_layers else table.predict(shape.dense_plan)
        table.rows[0]["dense_ms"] = dense_ms
        return table

    def time(self, plans: list[Plan], effort: Effort, title: str) -> list[Timing]:
        """Times whole models of these plans, with random weights, in interleaved repeats.

        All plans have as many layers.
        """
        with self.models(plans) as directories:
            return self._retry_until_quiet(directories, effort, title)

    def _retry_until_quiet(self, directories: list[Path], effort: Effort, title: str) -> list[Timing]:
        """Times models against each other, and again, a few times, while the machine is busy."""
        quietest: list[Timing] = []
        for attempt in range(_ATTEMPTS):
            timings = self._timings(directories, effort, title)
            if not quietest or timings[0].spread < quietest[0].spread:
                quietest = timings
            if quietest[0].spread <= BUSY:
                break
            rest = "measuring again" if attempt + 1 < _ATTEMPTS else "figures may be off"
            spread = 100 * timings[0].spread
            self.progress.say(f"  warning: timings vary by {spread:.0f} %: the machine is busy; {rest}")
        return quietest

    def _timings(self, directories: list[Path], effort: Effort, title: str) -> list[Timing]:
        """Returns one timing per model; e2e is put together from a prefill and the decode steps.

        Models are loaded anew several times: one and the same model is faster or slower for as long as it is
        loaded (docs/experiments.md).
        """
        parts = [
            self._loads(directories, replace(self.workload, metric=metric), effort, f"{title} ({metric})")
            for metric, _ in self._parts()
        ]
        return [self._join([part[i] for part in parts]) for i in range(len(directories))]

    def _loads(self, directories: list[Path], workload: Workload, effort: Effort, title: str) -> list[Timing]:
        """Repeats loads of one metric until they are precise enough; says first how long they may take."""
        total = [Timing() for _ in directories]
        with self.progress.stage(title, effort.loads * _REPEATS * len(directories)) as bar:
            for load in range(effort.most):
                steps = {
                    str(i): self.backend.prepare(d, workload, self.threads) for i, d in enumerate(directories)
                }
                if load == 0 and effort.most > 1:
                    once = _REPEATS * sum(seconds_per_repeat(step) for step in steps.values())
                    self.progress.say(
                        f"  {title}: {len(directories)} models, about {effort.loads * once:.0f} to "
                        f"{effort.most * once:.0f} s, and loading"
                    )
                found = interleave(steps, repeats=_REPEATS, advance=bar.advance)
                total = [t + found[str(i)] for i, t in enumerate(total)]
                errors = [uncertainty(t, total[0], _REPEATS) for t in total[1:]]
                steps.clear()  # the models of one load are freed before the next load
                if load + 1 >= effort.loads and max(errors, default=0.0) <= effort.precision:
                    break
        return total

    def _parts(self) -> list[tuple[str, float]]:
        """Returns (metric to time, how often it counts)."""
        if self.workload.metric == "e2e":
            return [("ttft", 1.0), ("tpot", self.workload.output_tokens - 1.0)]
        return [(self.workload.metric, 1.0)]

    def _join(self, parts: list[Timing]) -> Timing:
        weights = [weight for _, weight in self._parts()]
        most = max(len(part.repeats) for part in parts)  # a part that was precise sooner is reused
        repeats = zip(*(islice(cycle(part.repeats), most) for part in parts), strict=True)
        return Timing(
            [sum(w * t for w, t in zip(weights, repeat, strict=True)) for repeat in repeats],
            [samples for part in parts for samples in part.samples],
        )

    @contextmanager
    def models(self, plans: list[Plan]) -> Iterator[list[Path]]:
        with tempfile.TemporaryDirectory(prefix="lathe-latency-") as root:
            directories = []
            for i, plan in enumerate(plans):
                directory = Path(root) / str(i)
                directory.mkdir()
                self.backend.build(directory, self.source, plan, len(plan))
                directories.append(directory)
            yield directories
