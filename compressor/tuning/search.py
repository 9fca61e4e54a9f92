"""The search: trials one after another, each noted as soon as it is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lathe.artefact.errors import UserError
from lathe.compressor.tuning.fidelity import fewer_tokens, promising
from lathe.compressor.tuning.knobs import KNOBS, Value
from lathe.compressor.tuning.space import Point, TuningSpace, shown
from lathe.compressor.tuning.study import Record, records
from lathe.compressor.tuning.trial_runner import Outcome

FAILED = 1e20
"""The loss that a sampler without failures is told of a failed trial."""
_TOKENS = "calibration-tokens"
_SAME = 200
"""After so many points in a row that are known already, a search ends."""
Run = Callable[..., Outcome]


@dataclass
class Search:
    """What a sampler is given: a study to ask and tell, and when to stop.

    Attributes:
        study: An `optuna.Study`.
        space: The points.
        run: Runs a trial, as `TrialRunner` does.
        tokens: The calibration tokens of a trial that does not say them.
        seed: The sampler's seed.
        trials: The trials in all; None for any number.
        seconds: What all trials may take; None for any time.
        halving: Whether trials are first run on fewer tokens.
        tell: Is called with every trial that has ended.
    """

    study: Any
    space: TuningSpace
    run: Run
    tokens: int
    seed: int = 0
    trials: int | None = None
    seconds: float | None = None
    halving: bool = True
    tell: Callable[[Record], None] = lambda _record: None
    known: dict[Point, Record] = field(init=False, default_factory=dict)
    done: int = field(init=False, default=0)
    spent: float = field(init=False, default=0.0)
    _firsts: list[float] = field(init=False, default_factory=list)
    _repeats: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        for record in records(self.study):
            if record.state != "running":
                self._note(record)

    @property
    def more(self) -> bool:
        """Whether another trial may start."""
        within = self.trials is None or self.done < self.trials
        in_time = self.seconds is None or self.spent < self.seconds
        return within and in_time and len(self.known) < self.space.size and self._repeats < _SAME

    def run_default(self) -> None:
        """Runs the options as they were given, which is trial 0.

        Raises:
            UserError: they fail.
        """
        if self.done:
            return
        if (point := self.space.default) is not None:
            self.evaluate(point)
        else:
            self._settle(self._open(), None, self.space.given)
        (record,) = [record for record in records(self.study) if record.number == 0]
        if record.state == "failed":
            raise UserError(f"the run without tuning failed: {record.facts['error']}")

    def ask(self, sampler: Any) -> None:
        """Runs the trial that a sampler of Optuna asks for."""
        self.study.sampler = sampler
        trial = self._open()
        point = self._suggested(trial)
        self._settle(trial, point, self.space.at(point))

    @property
    def next_seed(self) -> int:
        """A seed for the next trial, which a search that was killed and resumed has, too."""
        open_ones = self._running()
        number = open_ones[0].number if open_ones else len(self.study.get_trials(deepcopy=False))
        return (self.seed * 1_000_003 + number) % 2**31

    def evaluate(self, point: Point) -> float:
        """Returns the loss at a point, from the database or by a trial; `FAILED` of one that failed."""
        if point not in self.known:
            if not self._running():
                self.study.enqueue_trial(dict(zip(self.space.values, point, strict=True)))
            trial = self._open()
            if self._suggested(trial) != point:
                self._settle(trial, self._suggested(trial), self.space.at(self._suggested(trial)))
                return self.evaluate(point)
            self._settle(trial, point, self.space.at(point))
        record = self.known[point]
        losses = [loss for loss in (record.loss, record.first) if loss is not None]
        return FAILED if record.state == "failed" else losses[0]

    def _running(self) -> list[Any]:
        """Returns trials that a killed command left."""
        return [t for t in self.study.get_trials(deepcopy=False) if t.state.name == "RUNNING"]

    def _open(self) -> Any:
        """Returns a trial that a killed command left, or else a new one."""
        import optuna

        left = self._running()
        return optuna.trial.Trial(self.study, left[0]._trial_id) if left else self.study.ask()

    def _suggested(self, trial: Any) -> Point:
        point = []
        for name, values in self.space.values.items():
            if KNOBS[name].ordered:
                point.append(trial.suggest_int(name, 0, len(values) - 1))
            else:
                point.append(trial.suggest_categorical(name, list(range(len(values)))))
        return tuple(point)

    def _settle(self, trial: Any, point: Point | None, values: dict[str, Value]) -> None:
        """Runs a trial, or repeats what is known of its point, and notes it in the database."""
        trial.set_user_attr("point", None if point is None else list(point))
        trial.set_user_attr("values", shown(values))
        before = self.known.get(point) if point is not None else None
        if before is not None:
            trial.set_user_attr("same_as", before.number)
            self._repeats += 1
            if before.first is not None:
                trial.report(before.first, 0)
            self._tell(trial, before.state, before.loss)
            return
        self._repeats = 0
        try:
            state, loss = self._run(trial, values)
        except UserError as error:
            trial.set_user_attr("error", str(error))
            state, loss = "failed", None
        except Exception as error:  # whatever a trial dies of, the others go on
            trial.set_user_attr("error", f"{type(error).__name__}: {error}".splitlines()[0])
            state, loss = "failed", None
        self._tell(trial, state, loss)
        record = next(r for r in records(self.study) if r.number == trial.number)
        self._note(record)
        self.tell(record)

    def _run(self, trial: Any, values: dict[str, Value]) -> tuple[str, float | None]:
        tokens = values.get(_TOKENS, self.tokens)
        fewer = fewer_tokens(tokens) if self.halving and trial.number and isinstance(tokens, int) else None
        if fewer:
            first = trial.user_attrs.get("first")
            if first is None:
                drafted = _finite(self.run(values | {_TOKENS: fewer}, draft=True))
                first = drafted.loss_increase
                trial.set_user_attr("seconds", drafted.seconds)
                trial.set_user_attr("first", first)
            trial.report(first, 0)
            if not promising(first, self._firsts):
                return "dropped", None
        found = _finite(self.run(values))
        trial.set_user_attr("seconds", trial.user_attrs.get("seconds", 0.0) + found.seconds)
        trial.set_user_attr("plan", found.plan.to_json())
        trial.set_user_attr("ms", found.ms)
        trial.set_user_attr("perplexity", found.perplexity)
        return "complete", found.loss_increase

    def _tell(self, trial: Any, state: str, loss: float | None) -> None:
        from optuna.trial import TrialState

        states = {"complete": TrialState.COMPLETE, "dropped": TrialState.PRUNED, "failed": TrialState.FAIL}
        self.study.tell(trial, loss, state=states[state])

    def _note(self, record: Record) -> None:
        if record.repeated:
            return
        if record.point is not None:
            self.known[record.point] = record
        self.done += 1
        self.spent += record.seconds
        if record.first is not None:
            self._firsts.append(record.first)


def _finite(found: Outcome) -> Outcome:
    """Refuses a loss that is none.

    Raises:
        UserError: it is not a number.
    """
    if not math.isfinite(found.loss_increase):
        raise UserError(f"the artefact's loss is {found.loss_increase}")
    return found
