"""Search, and prove the plan's latency before any weight is cut: solve, measure, correct, solve again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from lathe.artefact.errors import UserError
from lathe.artefact.plan import Plan
from lathe.compressor.compute.progress import Progress
from lathe.compressor.latency.cache import cached_comparison, cached_table
from lathe.compressor.latency.measure import Comparison
from lathe.compressor.latency.table import LatencyTable
from lathe.compressor.model.pruning import Selection
from lathe.compressor.pipeline.options import Options
from lathe.compressor.pipeline.preflight import PreflightResult
from lathe.compressor.pipeline.run_directory import RunDirectory, key
from lathe.compressor.search.method import SearchResult
from lathe.compressor.search.space import Constraint, make_space

Made = TypeVar("Made")
_AIM = 0.99
_SLACK = 0.97


@dataclass
class Iteration:
    """One turn of the loop: the limit that was searched, the prediction, the measurement of the plan, and
    that of its artefact where it missed the target.
    """

    plan: Plan
    selections: list[Selection]
    fitness: float
    candidates: int
    limit_ms: float | None = None
    predicted_ms: float | None = None
    measured_ms: float | None = None
    artefact_ms: float | None = None

    def row(self) -> dict[str, Any]:
        hidden = ("plan", "selections")
        return {k: v for k, v in asdict(self).items() if k not in hidden}


@dataclass
class LatencyLoop:
    """Finds a plan and keeps the latency table's correction from round to round.

    key: names what the search reads. bias: what artefacts take over what their plans take with random
    weights, as far as it is known.
    """

    options: Options
    card: PreflightResult
    search: Callable[[list[Constraint]], SearchResult]
    key: str
    run: RunDirectory
    progress: Progress
    table: LatencyTable | None = None
    rounds: list[Iteration] = field(default_factory=list)
    bias: float = 1.0

    def __post_init__(self) -> None:
        if self.card.table:
            self.table = self.card.table
        elif self.options.timed:
            self.table = LatencyTable.from_json(
                self.run.json(f"table-{self._timing_key()}", lambda: self._table().to_json())
            )

    def _table(self) -> LatencyTable:
        """What a width takes does not depend on which are allowed: one table for all of a model's spaces."""
        return cached_table(self.card.meter, make_space(self.card.source.shape), self.options.remeasure)

    def _timing_key(self, *facts: Any) -> str:
        """Names what was timed, so that a resumed run goes on from the same milliseconds."""
        asked = self.options
        return key(self.key, asked.backend, asdict(self.card.meter.workload), asked.threads, *facts)

    @property
    def target_ms(self) -> float | None:
        """Milliseconds, with a speed-up taken of the table's dense model."""
        if self.options.target_speedup and self.table:
            return self.table.dense_ms / self.options.target_speedup
        return self.options.latency_limit_ms

    def drift(self, timing: Comparison) -> float:
        """How much slower dense ran in a measurement than in the table. Only a speed-up, a ratio, is carried
        over to the machine's speed of the moment; milliseconds are milliseconds.
        """
        if self.options.target_speedup and self.table:
            return timing.dense.median / self.table.dense_ms
        return 1.0

    def table_now(self, timing: Comparison | None) -> LatencyTable | None:
        """The table in milliseconds of the artefact's measurement, to compare with what that gave."""
        return self.table.corrected(self.drift(timing)) if self.table and timing else self.table

    def measured_ms(self, timing: Comparison) -> float:
        """An artefact's time, to compare with `target_ms`."""
        if self.options.target_speedup and self.table:
            return self.table.dense_ms * timing.ratio
        return timing.subnet.median

    def until_met(
        self, make: Callable[[Iteration], tuple[Made, Comparison | None]]
    ) -> tuple[Made, Iteration, bool | None]:
        """Make artefacts until one, measured, keeps the target, or the rounds are used up.

        make: from a plan to (what was made, its time beside dense). Returns the last one, its round, and
        whether the target is kept: None where it cannot be measured.
        """
        while True:
            chosen = self.solve()
            made, timing = make(chosen)
            target = self.target_ms
            if target is None or timing is None:
                return made, chosen, True if self.card.here else None
            measured = self.measured_ms(timing)
            met = measured <= target * (1 + self.options.tolerance)
            if met or len(self.rounds) >= self.options.rounds:
                return made, chosen, met
            self.progress.say(
                f"  the artefact took {measured:.4g} ms against a target of {target:.4g} ms: solving again"
            )
            self.learn(chosen, measured)

    def solve(self) -> Iteration:
        """Rounds of search and measurement until the plan keeps the target.

        Raises:
            UserError: no plan does, with the nearest target that one does.
        """
        while True:
            found = self._search()
            target = self.target_ms
            if self.table is None or target is None or not self.card.here:
                return self._note(found, None)
            again = [r for r in self.rounds if r.plan == found.plan and self._keeps(r, target)]
            if again:
                return again[-1]  # no plan lies between this one and the target
            current = self._note(found, self._measure(found.plan))
            measured = self._expected(current)
            spare = measured < target * _SLACK and found.plan != self.card.source.shape.dense_plan
            if self._keeps(current, target) and not spare:
                return current
            if len(self.rounds) >= self.options.rounds:
                return self._best(target)
            self.correct(found.plan, measured)

    def learn(self, chosen: Iteration, artefact_ms: float) -> None:
        """Teach the table, and every later measurement, what an artefact really takes."""
        if chosen.measured_ms:
            self.bias = artefact_ms / chosen.measured_ms
        chosen.artefact_ms = artefact_ms
        self.correct(chosen.plan, artefact_ms)

    def correct(self, plan: Plan, measured_ms: float) -> None:
        """Teach the table what a plan really takes."""
        if self.table is not None:
            self.table = self.table.corrected(measured_ms / self.table.predict(plan))

    def _search(self) -> SearchResult:
        constraints = list(self.card.constraints)
        if self.table is not None and self.target_ms is not None:
            constraints.append(self.table.constraint(self.card.space, self.target_ms * _AIM))
        return self.search(constraints)

    def _measure(self, plan: Plan) -> float:
        """Milliseconds of the plan. For a speed-up: as the table's dense model divided by what was gained
        side by side, so that a machine that drifted since does not count.
        """
        name = f"proof-{len(self.rounds)}-{self._timing_key(plan.to_json())}"
        comparison = self.run.json(
            name, lambda: cached_comparison(self.card.meter, plan, self.options.remeasure)
        )
        if self.options.target_speedup and self.table:
            return self.table.dense_ms * float(comparison["ratio"])
        return float(comparison["subnet_ms"])

    def _note(self, found: SearchResult, measured: float | None) -> Iteration:
        predicted = self.table.predict(found.plan) if self.table else None
        limit = self.target_ms * _AIM if self.target_ms else None
        self.rounds.append(
            Iteration(
                found.plan, found.selections, found.fitness, found.evaluations, limit, predicted, measured
            )
        )
        if measured is not None and predicted is not None:
            self.progress.say(
                f"  round {len(self.rounds)}: KL {found.fitness:.4f}, predicted {predicted:.4g} ms, "
                f"measured {measured:.4g} ms"
            )
        return self.rounds[-1]

    def _expected(self, turn: Iteration) -> float:
        """Milliseconds that the artefact of a round takes, or is expected to take."""
        return turn.artefact_ms or (turn.measured_ms or 0.0) * self.bias

    def _keeps(self, turn: Iteration, target: float) -> bool:
        return self._expected(turn) <= target * (1 + self.options.tolerance)

    def _best(self, target: float) -> Iteration:
        kept = [r for r in self.rounds if self._keeps(r, target)]
        if kept:
            return min(kept, key=lambda r: r.fitness)
        nearest = min(map(self._expected, self.rounds))
        raise UserError(
            f"no plan kept {target:.4g} ms in {len(self.rounds)} rounds; the nearest took {nearest:.4g} ms",
            f"Ask for {nearest:.3g} ms, or run again when the machine is quieter.",
        )
