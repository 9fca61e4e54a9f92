"""The latency loop: search, measure the plan, correct the latency table, and search again.

The plan's latency is proven before any weight is pruned. A latency target has one name for each meaning:

- `CompressOptions.latency_limit_ms` or `CompressOptions.speedup` is what was asked for;
- `PreflightResult.provisional_target_ms` is that in milliseconds, a speed-up taken of the quick timing;
- `LatencyLoop.table_target_ms` is that in the latency table's milliseconds, which the search keeps to;
- `LatencyLoop.reported_target_ms` is that at the speed of the machine when the artefact was timed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, TypeVar

from lathe.artefact.errors import UserError
from lathe.artefact.fingerprint import fingerprint
from lathe.artefact.plan import Plan
from lathe.compressor.latency.backend import versions_here
from lathe.compressor.latency.cache import cached_comparison, cached_table
from lathe.compressor.latency.comparison import Comparison
from lathe.compressor.latency.learning import learned
from lathe.compressor.latency.table import LatencyTable
from lathe.compressor.model.pruning import Selection
from lathe.compressor.pipeline.outcome import Status
from lathe.compressor.pipeline.run_context import RunContext
from lathe.compressor.pipeline.run_directory import key
from lathe.compressor.pipeline.timing_verdict import excess
from lathe.compressor.pipeline.vocabulary import whole_over_cut
from lathe.compressor.search.method import SearchResult
from lathe.compressor.search.mixed_space import MixedSpace
from lathe.compressor.search.space import Constraint, make_space

_AIM = 0.99
_SLACK = 0.97
_LOSSLESS = 0.002
"""A plan that loses no more, KL in nats per token, may leave any part of its budget unspent."""


class Timed(Protocol):
    """Something made of a plan, with its latency against dense if that can be measured."""

    @property
    def timing(self) -> Comparison | None: ...


Made = TypeVar("Made", bound=Timed)


@dataclass
class Iteration:
    """One iteration of the loop.

    Attributes:
        plan: The plan that was found.
        selections: The heads and channels that it keeps, layer by layer.
        fitness: The search's measure of the plan, KL in nats per token.
        candidates: The number of plans that were evaluated.
        limit_ms: The limit that was searched under.
        predicted_ms: What the latency table predicted.
        measured_ms: What the plan took with random weights.
        artefact_ms: What its artefact took, where that missed the target.
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
        """Returns its numbers, as the report has them."""
        hidden = ("plan", "selections")
        return {k: v for k, v in asdict(self).items() if k not in hidden}


@dataclass
class LatencyLoop:
    """Finds a plan that meets the targets; corrects the latency table from iteration to iteration.

    Attributes:
        context: The run.
        search: Finds the best plan under constraints.
        key: Names what the search reads.
        table: The latency table, where milliseconds are needed, with what was learnt from plans.
        measured_table: The table as it was measured or given.
        iterations: Those so far.
        bias: The ratio of what artefacts take to what their plans take with random weights, as far as it is
            known.
        gain: The ratio of what the given model takes to what it takes with the vocabulary that is kept.
    """

    context: RunContext
    search: Callable[[list[Constraint]], SearchResult]
    key: str
    table: LatencyTable | None = field(init=False)
    measured_table: LatencyTable | None = field(init=False)
    iterations: list[Iteration] = field(init=False, default_factory=list)
    bias: float = field(init=False, default=1.0)
    gain: float = field(init=False, default=1.0)
    _taken: dict[Plan, float] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.table = self.context.preflight.table
        if self.table is None and self.context.options.timed:
            self.table = LatencyTable.from_json(
                self.context.run_dir.json(
                    f"table-{self._timing_key()}", lambda: self._measured_table().to_json()
                )
            )
        self.measured_table = self.table
        if self.context.options.timed and self.context.preflight.vocabulary:
            self.gain = self.context.run_dir.json(f"gain-{self._timing_key()}", self._measured_gain)

    def _measured_table(self) -> LatencyTable:
        """Returns the table of all spaces of the model: what a width takes does not depend on the others."""
        preflight, options = self.context.preflight, self.context.options
        widths = make_space(preflight.source.shape)
        space = MixedSpace(widths, options.block_bits) if options.block_bits else widths
        return cached_table(preflight.benchmark, space, options.remeasure)

    def _measured_gain(self) -> float:
        preflight = self.context.preflight
        return whole_over_cut(preflight.benchmark, preflight.whole.shape.vocab_size)

    @property
    def given_ms(self) -> float | None:
        """The given model's time in the table's milliseconds, which speed-ups are taken of."""
        return self.table.dense_ms * self.gain if self.table else None

    def _timing_key(self, *facts: Any) -> str:
        """Names what was timed where, so that a run resumed there goes on with the same milliseconds."""
        benchmark = self.context.preflight.benchmark
        machine = fingerprint(versions_here(benchmark.backend), self.context.options.threads)
        return key(self.key, benchmark.backend.name, asdict(benchmark.workload), machine, *facts)

    @property
    def table_target_ms(self) -> float | None:
        """The target in the table's milliseconds."""
        options = self.context.options
        if options.speedup and self.given_ms:
            return self.given_ms / options.speedup
        return options.latency_limit_ms

    def reported_target_ms(self, timing: Comparison | None) -> float | None:
        """Returns the target at the speed of the machine when the artefact was timed."""
        target = self.table_target_ms
        return None if target is None else target * self.drift(timing)

    def drift(self, timing: Comparison | None) -> float:
        """Returns how much slower dense ran in a measurement than in the table.

        Only a speed-up, a ratio, is carried over to the machine's speed of the moment. A target in
        milliseconds is not.
        """
        if timing and self.context.options.speedup and self.given_ms:
            return timing.dense.median / self.given_ms
        return 1.0

    def table_at(self, timing: Comparison | None) -> LatencyTable | None:
        """Returns the table at the speed of the machine when the artefact was timed."""
        return self.table.corrected(self.drift(timing)) if self.table and timing else self.table

    def table_ms(self, timing: Comparison) -> float:
        """Returns an artefact's time in the table's milliseconds, to compare with `table_target_ms`."""
        if self.context.options.speedup and self.given_ms:
            return self.given_ms * timing.ratio
        return timing.subnet.median

    def run(self, make: Callable[[Iteration], Made]) -> tuple[Made, Iteration, Status]:
        """Makes artefacts until one, measured, meets the target, or the iterations are used up.

        Args:
            make: Makes the artefact of an iteration's plan and times it.

        Returns:
            The last artefact, its iteration, and whether the target is met.
        """
        options = self.context.options
        while True:
            iteration = self.find_plan()
            made, target = make(iteration), self.table_target_ms
            if target is None or made.timing is None:
                status = Status.DONE if self.context.preflight.on_this_machine else Status.UNMEASURED
                return made, iteration, status
            if excess(options, made.timing) <= 0:
                return made, iteration, Status.DONE
            if len(self.iterations) >= options.rounds:
                return made, iteration, Status.MISSED
            measured = self.table_ms(made.timing)
            self.context.progress.say(
                f"  the artefact took {measured:.4g} ms against a target of {target:.4g} ms: searching again"
            )
            self.learn(iteration, measured)

    def find_plan(self) -> Iteration:
        """Searches and measures until a plan meets the target.

        Raises:
            UserError: no plan does; the error has the nearest target that one meets.
        """
        with self.context.preflight.benchmark.keep_dense():
            return self._find_plan()

    def _find_plan(self) -> Iteration:
        preflight = self.context.preflight
        while True:
            found = self._search()
            target = self.table_target_ms
            if self.table is None or target is None or not preflight.on_this_machine:
                return self._note(found, None)
            again = [i for i in self.iterations if i.plan == found.plan and self._meets(i, target)]
            if again:
                return again[-1]  # no plan lies between this one and the target
            current = self._note(found, self._measure(found.plan))
            measured = self._expected_ms(current)
            loses = found.plan != preflight.source.shape.dense_plan and found.fitness > _LOSSLESS
            spare = loses and measured < target * _SLACK
            if self._meets(current, target) and not spare:
                return current
            if len(self.iterations) >= self.context.options.rounds:
                return self._best(target)
            self.correct(found.plan, measured)

    def learn(self, iteration: Iteration, artefact_ms: float) -> None:
        """Corrects the table, and what later measurements are taken for, by what an artefact really takes."""
        if iteration.measured_ms:
            self.bias = artefact_ms / iteration.measured_ms
        iteration.artefact_ms = artefact_ms
        self.correct(iteration.plan, artefact_ms)

    def correct(self, plan: Plan, measured_ms: float) -> None:
        """Corrects the table by what a plan really takes, so far that no plan too slow is found again."""
        if self.measured_table is None:
            return
        self._taken[plan] = measured_ms
        self.table = learned(self.measured_table, self._taken)
        predicted, target = self.table.predict(plan), self.table_target_ms
        if target and predicted <= target * _AIM < target < measured_ms:
            self.table = self.table.corrected(measured_ms / predicted)

    def _search(self) -> SearchResult:
        preflight, target = self.context.preflight, self.table_target_ms
        constraints = list(preflight.constraints)
        if self.table is not None and target is not None:
            constraints.append(self.table.constraint(preflight.choices, target * _AIM))
        return self.search(constraints)

    def _measure(self, plan: Plan) -> float:
        """Returns a plan's time in the table's milliseconds.

        For a speed-up that is the time of the table's dense model divided by the measured speed-up, so that
        a machine that has drifted since does not count.
        """
        benchmark, options = self.context.preflight.benchmark, self.context.options
        comparison = self.context.run_dir.json(
            f"proof-{len(self.iterations)}-{self._timing_key(plan.to_json())}",
            lambda: cached_comparison(benchmark, plan, options.remeasure),
        )
        if options.speedup and self.table:
            return self.table.dense_ms * float(comparison["ratio"])
        return float(comparison["subnet_ms"])

    def _note(self, found: SearchResult, measured: float | None) -> Iteration:
        predicted = self.table.predict(found.plan) if self.table else None
        limit = self.table_target_ms * _AIM if self.table_target_ms else None
        self.iterations.append(
            Iteration(
                found.plan, found.selections, found.fitness, found.evaluations, limit, predicted, measured
            )
        )
        if measured is not None and predicted is not None:
            self.context.progress.say(
                f"  round {len(self.iterations)}: KL {found.fitness:.4f}, predicted {predicted:.4g} ms, "
                f"measured {measured:.4g} ms"
            )
        return self.iterations[-1]

    def _expected_ms(self, iteration: Iteration) -> float:
        """Returns the milliseconds that an iteration's artefact takes or is expected to take."""
        return iteration.artefact_ms or (iteration.measured_ms or 0.0) * self.bias

    def _meets(self, iteration: Iteration, target: float) -> bool:
        return self._expected_ms(iteration) <= target * (1 + self.context.options.tolerance)

    def _best(self, target: float) -> Iteration:
        meeting = [i for i in self.iterations if self._meets(i, target)]
        if meeting:
            return min(meeting, key=lambda i: i.fitness)
        nearest = min(map(self._expected_ms, self.iterations))
        raise UserError(
            f"no plan kept {target:.4g} ms in {len(self.iterations)} rounds; the nearest took "
            f"{nearest:.4g} ms",
            f"Ask for {nearest:.3g} ms, or run again when the machine is quieter.",
        )
