"""A load test of one system, or of dense and subnet in alternating rounds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lathe.artefact.errors import UserError
from lathe.serving.loadtest.answered import DEFINITIONS, SLO_DEFINITIONS
from lathe.serving.loadtest.document import document, system_json
from lathe.serving.loadtest.load import Load
from lathe.serving.loadtest.measure import Round
from lathe.serving.loadtest.slo import Slo
from lathe.serving.loadtest.testbed import Setup, Testbed, on_testbed


def run(
    target: str | Path,
    load: Load,
    *,
    rounds: int = 1,
    setup: Setup | None = None,
    slo: Slo | None = None,
) -> dict[str, Any]:
    """Loads one system, a URL or a directory, which is served during the test.

    With `slo` the document tells how many requests kept it.

    Returns:
        The `lathe-loadtest/1` document; its only system is called "server".

    Raises:
        UserError: if the system cannot be reached or started, or the settings make no sense.
    """
    return _test({"server": target}, load, rounds, setup or Setup(), slo)


def compare(
    subnet: str | Path,
    dense: str | Path,
    load: Load,
    *,
    rounds: int = 3,
    setup: Setup | None = None,
    slo: Slo | None = None,
) -> dict[str, Any]:
    """Loads two systems, each a directory or a URL, in interleaved rounds.

    The order changes from pair to pair (dense first, then subnet first), so that a drift of the machine
    affects both. Both stay up; only one is under load at a time. In a pair both get the same prompts and
    arrival times. With `slo` the document tells how many requests kept it.

    Returns:
        The `lathe-loadtest/1` document with the systems "dense" and "subnet" and their ratios.

    Raises:
        UserError: a system cannot be reached or started, or the settings make no sense.
    """
    return _test({"dense": dense, "subnet": subnet}, load, rounds, setup or Setup(), slo)


def _test(
    places: Mapping[str, str | Path], load: Load, rounds: int, setup: Setup, slo: Slo | None
) -> dict[str, Any]:
    if rounds < 1:
        raise UserError(f"--rounds is {rounds}", "It must be at least 1.")

    async def alternate(testbed: Testbed) -> dict[str, list[Round]]:
        done: dict[str, list[Round]] = {name: [] for name in testbed.systems}
        for index in range(rounds):
            names = list(done) if index % 2 == 0 else list(reversed(done))
            for name in names:
                done[name].append(await testbed.round(name, load, load.seed + index))
        return done

    done, systems = on_testbed(places, load, setup, alternate)
    return document(
        {**setup.as_json(load), **({"slo": slo.as_json()} if slo else {}), "rounds": rounds},
        {
            name: system_json(
                system.place,
                system.target.model,
                done[name],
                system.memory,
                system.target.dialect.notes,
                slo,
            )
            for name, system in systems.items()
        },
        definitions={**DEFINITIONS, **(SLO_DEFINITIONS if slo else {}), **setup.engine.definitions},
    )
