"""Searches over a made-up pipeline: samplers, resumed searches, failed trials, two fidelities."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest

from lathe.artefact.errors import UserError
from lathe.artefact.plan import Plan
from lathe.compressor.tuning.fidelity import fewer_tokens, promising
from lathe.compressor.tuning.sampler import samplers
from lathe.compressor.tuning.search import Search
from lathe.compressor.tuning.space import TuningSpace
from lathe.compressor.tuning.study import Record, open_study, records
from lathe.compressor.tuning.trial_runner import Outcome

TOKENS = (1024, 2048, 4096, 8192)
SPACE = TuningSpace(
    {"calibration-tokens": TOKENS, "refinements": (0, 1, 2, 3), "damping": (None, 1e-3, 1e-2, 1e-1)},
    {"calibration-tokens": 8192, "refinements": 3, "damping": None},
)
SAMPLERS = ("random", "tpe", "nomad")


class Killed(BaseException):
    """What a kill is to a search: nothing handles it."""


class Pipeline:
    """Loses least at 4096 tokens, one refinement and a damping of 0.01."""

    def __init__(self, killed_at: int = 0, failing: int = 0) -> None:
        self.runs: list[dict[str, Any]] = []
        self.killed_at, self.failing = killed_at, failing

    def __call__(self, values: Mapping[str, Any], draft: bool = False) -> Outcome:
        self.runs.append(dict(values) | {"draft": draft})
        if len(self.runs) == self.killed_at:
            raise Killed
        if len(self.runs) == self.failing:
            raise RuntimeError("a matrix is not definite\nmore")
        tokens, dampings = TOKENS.index(values["calibration-tokens"]), SPACE.values["damping"]
        away = (tokens - 2) ** 2 + (values["refinements"] - 1) ** 2
        away += (dampings.index(values["damping"]) - 2) ** 2
        return Outcome(1.0 + away / 10 + 0.5 * draft, 2.0, Plan(()), None, 10.0)


def search(study: Any, sampler: str, pipeline: Pipeline, **changes: Any) -> list[Record]:
    settings: dict[str, Any] = {"space": SPACE, "trials": 10, "halving": False} | changes
    found = Search(study, run=pipeline, tokens=8192, **settings)
    found.run_default()
    samplers.get(sampler).search(found)
    return [r for r in records(found.study) if not r.repeated]


def in_memory() -> Any:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_search_that_is_killed_goes_on_as_if_it_had_not_been(sampler: str, tmp_path: Path) -> None:
    whole = search(in_memory(), sampler, Pipeline(), seed=3)
    assert len(whole) == 10
    assert len({r.point for r in whole}) == 10
    assert whole[0].point == SPACE.default
    with open_study(tmp_path, {}) as study, pytest.raises(Killed):
        search(study, sampler, Pipeline(killed_at=6), seed=3)
    rest = Pipeline()
    with open_study(tmp_path, {}) as study:
        resumed = search(study, sampler, rest, seed=3)
    assert [(r.point, r.loss) for r in resumed] == [(r.point, r.loss) for r in whole]
    assert len(rest.runs) == 5  # the one that was killed, and those after it


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_seeds_differ_and_repeat(sampler: str) -> None:
    first, again, other = (
        [r.point for r in search(in_memory(), sampler, Pipeline(), seed=seed)] for seed in (1, 1, 2)
    )
    assert first == again != other


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_space_that_is_used_up_ends_the_search(sampler: str) -> None:
    small = TuningSpace(
        {"refinements": (0, 1, 2), "calibration-tokens": (4096, 8192), "damping": (None,)},
        {"refinements": 1, "calibration-tokens": 8192, "damping": None},
    )
    pipeline = Pipeline()
    assert len(search(in_memory(), sampler, pipeline, space=small)) == len(pipeline.runs) == small.size == 6


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_failed_trial_is_noted_and_the_others_go_on(sampler: str) -> None:
    found = search(in_memory(), sampler, Pipeline(failing=4), seed=1)
    (failed,) = [r for r in found if r.state == "failed"]
    assert failed.facts["error"] == "RuntimeError: a matrix is not definite"
    assert len(found) == 10
    with pytest.raises(UserError, match="the run without tuning failed: RuntimeError"):
        search(in_memory(), sampler, Pipeline(failing=1))


def test_a_loss_that_is_no_number_is_a_failure() -> None:
    def run(values: Mapping[str, Any]) -> Outcome:
        return Outcome(math.nan if values["refinements"] == 0 else 1.0, 1.0, Plan(()), None, 10.0)

    found = search(in_memory(), "random", run, trials=12)
    states = {(r.facts["values"]["refinements"] == "0", r.state) for r in found}
    assert states == {(True, "failed"), (False, "complete")}


def test_time_ends_a_search_and_counts_that_of_earlier_commands() -> None:
    study = in_memory()
    assert len(search(study, "random", Pipeline(), trials=None, seconds=7.0)) == 4
    assert len(search(study, "random", Pipeline(), trials=None, seconds=11.0)) == 6


def test_a_default_outside_of_the_space_is_trial_0() -> None:
    outside, pipeline = TuningSpace(SPACE.values, SPACE.given | {"refinements": 4}), Pipeline()
    first, *others = search(in_memory(), "tpe", pipeline, space=outside, trials=3)
    assert first.point is None
    assert pipeline.runs[0]["refinements"] == 4
    assert first.loss is not None
    assert len(others) == 2


def test_only_the_better_half_goes_on_to_all_tokens() -> None:
    space = TuningSpace(SPACE.values | {"calibration-tokens": (4096, 8192)}, SPACE.given)
    pipeline = Pipeline()
    ended = search(in_memory(), "random", pipeline, space=space, trials=16, halving=True, seed=2)
    assert not pipeline.runs[0]["draft"]
    drafts = [run for run in pipeline.runs if run["draft"]]
    assert len(drafts) == 15
    assert all(run["calibration-tokens"] in (1024, 2048) for run in drafts)
    assert any(r.state == "dropped" for r in ended)
    firsts: list[float] = []
    for record in ended[1:]:
        assert record.first is not None
        better = sum(first < record.first for first in firsts)
        allowed = len(firsts) < 4 or better * 2 < len(firsts) + 1
        assert (record.state == "complete") == allowed == promising(record.first, firsts)
        firsts.append(record.first)
    assert fewer_tokens(2048) is None  # a quarter would be too few
