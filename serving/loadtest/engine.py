"""The load testers: what one has to do, and the registry that finds it by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import httpx

from lathe.artefact.registry import LazyRegistry
from lathe.serving.loadtest.client import Target
from lathe.serving.loadtest.load import Load
from lathe.serving.loadtest.measure import Round
from lathe.serving.loadtest.prompts import Prompts
from lathe.serving.loadtest.sample import Sample


def _ignore(_: Sample) -> None:
    """Ignores a sample."""


@dataclass(frozen=True)
class RoundSpec:
    """One round of load.

    Attributes:
        http: the client that sends the requests.
        target: the server.
        load: how many requests are sent, and when.
        prompts: the prompts, by seed.
        seed: sets the prompts and the arrival times.
        on_done: called with the sample of every measured request.
    """

    http: httpx.AsyncClient
    target: Target
    load: Load
    prompts: Prompts
    seed: int
    on_done: Callable[[Sample], None] = _ignore


class LoadTester(Protocol):
    """A load tester, which sends rounds of load."""

    @property
    def name(self) -> str:
        """The load tester's name, with its version if it is another program."""
        ...

    @property
    def definitions(self) -> Mapping[str, str]:
        """The definitions of its numbers that differ from those of `measure`."""
        ...

    def check(self, load: Load) -> None:
        """Checks that it can send this load.

        Raises:
            UserError: it cannot.
        """
        ...

    async def round(self, spec: RoundSpec) -> Round:
        """Warms up, sends one round and waits for its last answer; failed requests are samples, too.

        Raises:
            UserError: nothing could be measured.
        """
        ...


engines: LazyRegistry[Callable[[str | None], LoadTester]] = LazyRegistry(
    "load tester",
    "lathe.serving.loadtest.engines",
    "lathe.load_testers",
    lambda _name, value: callable(value),
)
"""Every load tester by the name that `loadtest --engine` takes, as a function of the path of its program."""


def find_load_tester(name: str, program: str | None = None) -> LoadTester:
    """Returns the load tester of a name.

    Args:
        name: one of `engines`.
        program: the path of its own program, if it has one; None: the one on PATH.

    Raises:
        UserError: there is no such load tester, or its program is not found.
    """
    return engines.get(name)(program)
