"""Measuring: the table of a machine, and one plan against the dense model."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from compressor.errors import UserError
from compressor.export.files import write_bytes
from compressor.latency.backend import Backend
from compressor.latency.bench import Step, Timing, interleave, paired_ratio
from compressor.latency.fingerprint import fingerprint
from compressor.latency.table import LatencyTable, designs, fit
from compressor.latency.workload import Workload
from compressor.plan import Plan
from compressor.progress import Progress
from compressor.search.space import Space
from compressor.source import Source

_TABLE_TURNS = 15
_PROOF_TURNS = 31
_QUICK_TURNS = 7
_BUSY = 0.25
_MAX_DECODER_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Comparison:
    """Milliseconds of a plan and of the dense model, timed in turns. `ratio`: median of paired turns."""

    dense: Timing
    subnet: Timing

    @property
    def ratio(self) -> float:
        return paired_ratio(self.subnet, self.dense)


@dataclass(frozen=True)
class Meter:
    """Times plans of one model on one backend."""

    source: Source
    backend: Backend
    workload: Workload
    threads: int | None
    progress: Progress

    def compare(
        self, plan: Plan, turns: int = _PROOF_TURNS, title: str = "measure: the plan against dense"
    ) -> Comparison:
        """A plan with random weights against the dense shape (timing does not depend on the values)."""
        with self.models([self.source.shape.dense_plan, plan]) as (dense, subnet):
            return self.compare_built(dense, subnet, turns=turns, title=title)

    def quick(self, plan: Plan) -> Comparison:
        return self.compare(plan, _QUICK_TURNS, "measure: dense and the smallest subnet")

    def compare_built(
        self,
        dense: Path,
        subnet: Path,
        turns: int = _PROOF_TURNS,
        title: str = "verify: the artefact against dense",
    ) -> Comparison:
        """Two exported models; e2e is put together from a prefill and the decode steps."""
        parts = []
        for metric, _ in self._parts():
            workload = replace(self.workload, metric=metric)
            steps = {
                "dense": self.backend.prepare(dense, workload, self.threads),
                "subnet": self.backend.prepare(subnet, workload, self.threads),
            }
            with self.progress.stage(f"{title} ({metric})", turns * 2) as bar:
                parts.append(interleave(steps, turns=turns, advance=bar.advance))
        return Comparison(self._join([p["dense"] for p in parts]), self._join([p["subnet"] for p in parts]))

    def table(self, space: Space) -> LatencyTable:
        """Fit the table from about a dozen whole models, timed in turns. Deep or wide models are
        measured with fewer layers: what a layer adds does not depend on how many there are."""
        shape = self.source.shape
        per_layer = 4 * shape.decoder_parameters(shape.dense_plan) // shape.num_layers
        layers = min(shape.num_layers, max(2, _MAX_DECODER_BYTES // per_layer))
        plans = designs(space, shape.dense_plan, layers)
        with self.models(plans) as directories:
            timings = self._time_all(directories)
        reference = timings[0].median
        times = [reference * paired_ratio(t, timings[0]) for t in timings]
        terms = fit(plans, times)
        table = LatencyTable(
            self.workload, fingerprint(self.backend.versions(), self.threads), terms,
            [
                {"plan": plan.to_json(), "measured_ms": ms, "turns_ms": timing.turns}
                for plan, ms, timing in zip(plans, times, timings, strict=True)
            ],
        )
        dense_ms = reference if layers == shape.num_layers else table.predict(shape.dense_plan)
        table.rows[0]["dense_ms"] = dense_ms
        return table

    def _time_all(self, directories: list[Path]) -> list[Timing]:
        parts = []
        for metric, _ in self._parts():
            workload = replace(self.workload, metric=metric)
            steps: dict[str, Step] = {
                str(i): self.backend.prepare(d, workload, self.threads) for i, d in enumerate(directories)
            }
            with self.progress.stage(f"measure: latency table ({metric})", _TABLE_TURNS * len(steps)) as bar:
                parts.append(interleave(steps, turns=_TABLE_TURNS, advance=bar.advance))
        return [self._join([part[str(i)] for part in parts]) for i in range(len(directories))]

    def _parts(self) -> list[tuple[str, float]]:
        """(metric to time, how often it counts)."""
        if self.workload.metric == "e2e":
            return [("ttft", 1.0), ("tpot", self.workload.output_tokens - 1.0)]
        return [(self.workload.metric, 1.0)]

    def _join(self, parts: list[Timing]) -> Timing:
        weights = [weight for _, weight in self._parts()]
        turns = zip(*(part.turns for part in parts), strict=True)
        return Timing(
            [sum(w * t for w, t in zip(weights, turn, strict=True)) for turn in turns],
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


def cached_table(meter: Meter, space: Space, refresh: bool) -> LatencyTable:
    """The table of this machine, model shape and workload; measured once, then kept in the cache
    (`$LATHE_CACHE`, else ~/.cache/lathe), so that runs with the same inputs search the same table."""
    path = _cache_path(meter)
    if path.exists() and not refresh:
        try:
            table = LatencyTable.from_json(json.loads(path.read_text()))
            meter.progress.say(f"  latency table: from {path} (--remeasure to measure again)")
            return table
        except (ValueError, KeyError, TypeError, UserError):
            meter.progress.say(f"  latency table: {path} is unreadable, measuring again")
    table = meter.table(space)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, (json.dumps(table.to_json(), indent=1) + "\n").encode())
    return table


def _cache_path(meter: Meter) -> Path:
    root = Path(os.environ.get("LATHE_CACHE") or Path.home() / ".cache" / "lathe")
    facts = [meter.source.config, repr(meter.workload), fingerprint(meter.backend.versions(), meter.threads)]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]
    return root / "latency" / f"{meter.backend.name}-{digest}.json"



def cached_comparison(meter: Meter, plan: Plan, refresh: bool) -> dict[str, float]:
    """What a plan takes beside the dense model on this machine: {"dense_ms", "subnet_ms", "ratio", "spread"}.

    Kept in the cache when the machine was quiet, so that the same plan is not judged twice.
    """
    digest = hashlib.sha256(json.dumps(plan.to_json()).encode()).hexdigest()[:16]
    path = _cache_path(meter).with_suffix("") / f"{digest}.json"
    if path.exists() and not refresh:
        try:
            return dict(json.loads(path.read_text()))
        except ValueError:
            path.unlink()
    comparison = meter.compare(plan)
    result = {
        "dense_ms": comparison.dense.median, "subnet_ms": comparison.subnet.median, "ratio": comparison.ratio,
        "spread": max(comparison.dense.spread, comparison.subnet.spread),
    }
    if result["spread"] > _BUSY:
        meter.progress.say(
            f"  warning: timings vary by {100 * result['spread']:.0f} %: the machine is busy and the target "
            "may be missed"
        )
        return result
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, json.dumps(result).encode())
    return result
