"""Finds the most users, or requests per second, within an SLO: of one system, or of dense and subnet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lathe.artefact.errors import UserError
from lathe.serving.loadtest import slo as slos
from lathe.serving.loadtest.bisection import Bisection
from lathe.serving.loadtest.document import preamble, round_json
from lathe.serving.loadtest.load import Load
from lathe.serving.loadtest.measure import Round, summary
from lathe.serving.loadtest.sample import Sample
from lathe.serving.loadtest.slo import Attainment, Slo
from lathe.serving.loadtest.testbed import Setup, System, Testbed, on_testbed

FORMAT = "lathe-loadtest-slo/1"
DEFINITIONS = {
    **slos.DEFINITIONS,
    "users": "requests kept in flight, each followed by the next one at once (closed loop)",
    "judged": "of a closed loop all requests but the first and the last of every user, between which "
    "the load is whole; of an open loop all",
    "most": "the highest level at which enough requests were within the SLO, by doubling and bisecting; "
    "the level above it failed twice",
    "ratio": "most of the subnet / most of dense",
}


@dataclass
class Level:
    """One level of load on one system: its rounds, and how many of their requests kept the SLO."""

    load: float
    rounds: list[Round] = field(default_factory=list)
    attainment: Attainment = field(default_factory=lambda: Attainment(0, 0, {}, 1.0))

    def as_json(self) -> dict[str, Any]:
        return {
            "level": self.load,
            **self.attainment.as_json(),
            **summary(self.rounds),
            "rounds": [round_json(one) for one in self.rounds],
        }


@dataclass
class _Search:
    """The search on one system."""

    bisection: Bisection
    levels: list[Level] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        found = self.bisection
        by_load = {level.load: level.attainment for level in self.levels}
        bounds = [by_load[load] for load in (found.best, found.failing) if load in by_load]
        return {
            "most": found.best,
            "lowest_failing": found.failing,
            "certain": all(bound.certain for bound in bounds),
            "levels": [level.as_json() for level in sorted(self.levels, key=lambda level: level.load)],
        }


def find_capacity(
    places: Mapping[str, str | Path], load: Load, slo: Slo, *, rounds: int = 3, setup: Setup | None = None
) -> dict[str, Any]:
    """Finds the most load within `slo` on each place, a URL or a directory; systems are interleaved by level.

    `load` tells what is searched: users from `concurrency` on, or the rate from `rate` on. Its `requests` is
    the number that is judged in every round. A level gets further rounds, at most `rounds`, while its
    requests do not decide it (`Attainment.certain`).

    Returns:
        The `lathe-loadtest-slo/1` document; with systems "dense" and "subnet" their "ratio" too.

    Raises:
        UserError: a system cannot be reached or started, or the settings make no sense.
    """
    setup = setup or Setup()
    _check(load, rounds)

    async def search(testbed: Testbed) -> dict[str, _Search]:
        searches = {name: _Search(_bisection(load)) for name in testbed.systems}
        while wanting := {name: one for name, one in searches.items() if one.bisection.next is not None}:
            for name, one in wanting.items():
                await _one_level(testbed, name, one, load, slo, rounds, setup)
        return searches

    found, systems = on_testbed(places, load, setup, search)
    return _document(found, systems, {**setup.as_json(load), "slo": slo.as_json(), "rounds": rounds}, setup)


def _check(load: Load, rounds: int) -> None:
    if rounds < 1:
        raise UserError(f"--rounds is {rounds}", "It must be at least 1.")
    if load.requests is None or load.trace is not None or load.duration_s is not None:
        raise UserError(
            "--slo searches a number of users or a rate, at each of which --requests are judged",
            "Drop --trace and --duration; --concurrency or --rate is where it begins.",
        )


def _bisection(load: Load) -> Bisection:
    if load.rate is not None:
        return Bisection(load.rate, whole=False)
    return Bisection(float(load.concurrency or 1), whole=True)


async def _one_level(
    testbed: Testbed, name: str, search: _Search, load: Load, slo: Slo, rounds: int, setup: Setup
) -> None:
    asked = search.bisection.next
    if asked is None:
        return
    level = Level(asked)
    search.levels.append(level)
    while len(level.rounds) < rounds and not level.attainment.certain:
        seed = load.seed + sum(len(one.rounds) for one in search.levels)  # other prompts every time
        level.rounds.append(await testbed.round(name, at_level(load, asked), seed))
        evaluated = [sample for one in level.rounds for sample in steady_state(one.samples, load, asked)]
        level.attainment = slo.evaluate(evaluated)
    search.bisection.note(asked, level.attainment.passed)
    setup.progress.stage(f"{name}: {level_in_words(asked, load)}, {_verdict(level.attainment)}")


def at_level(load: Load, level: float) -> Load:
    """Returns the load of a round at a level, with so many requests that `load.requests` are judged."""
    if load.rate is not None:
        return replace(load, rate=level)
    users = int(level)
    return replace(load, concurrency=users, requests=(load.requests or 0) + 2 * users)


def steady_state(samples: Sequence[Sample], load: Load, level: float) -> Sequence[Sample]:
    """Returns the samples of a round that are judged, in the order sent.

    With n users these are all but the first n, which come all at once, and the last n, beside which some
    users have finished.
    """
    if load.rate is not None:
        return samples
    users = int(level)
    return samples[users : max(len(samples) - users, users)]


def level_in_words(level: float, load: Mapping[str, Any] | Load) -> str:
    """Returns a level in words: `3 users`, `2.5 requests/s`."""
    rate = load.rate if isinstance(load, Load) else load.get("rate")
    if rate is not None:
        return f"{level:.3g} requests/s"
    return f"{level:.0f} user{'' if level == 1 else 's'}"


def _verdict(attainment: Attainment) -> str:
    low, high = attainment.interval
    share = f"{attainment.within:.1%} of {attainment.evaluated} within ({low:.1%} to {high:.1%})"
    return f"{share}: {'passed' if attainment.passed else 'failed'}"


def _document(
    searches: Mapping[str, _Search], systems: Mapping[str, System], settings: dict[str, Any], setup: Setup
) -> dict[str, Any]:
    whole: dict[str, Any] = {
        **preamble(FORMAT, {**DEFINITIONS, **setup.engine.definitions}),
        "settings": settings,
        "systems": {
            name: {
                "url": system.place,
                "model": system.target.model,
                "remarks": list(system.target.dialect.notes),
                **searches[name].as_json(),
                "memory": system.memory.as_json(),
            }
            for name, system in systems.items()
        },
    }
    if {"dense", "subnet"} <= searches.keys() and (dense := searches["dense"].bisection.best):
        whole["ratio"] = round(searches["subnet"].bisection.best / dense, 4)
    return whole
