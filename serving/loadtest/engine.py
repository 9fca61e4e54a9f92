"""The load testers: what one has to do, and the registry that finds it by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from lathe.artefact.registry import LazyRegistry
from lathe.serving.loadtest.load import Load
from lathe.serving.loadtest.measure import Round
from lathe.serving.loadtest.round_spec import Assignment


class Engine(Protocol):
    """Sends rounds of load. `definitions` are what its numbers mean where they differ from `measure`'s."""

    @property
    def name(self) -> str:
        """Its name, with its version where it is another program."""
        ...

    @property
    def definitions(self) -> Mapping[str, str]: ...

    def check(self, load: Load) -> None:
        """Raise UserError if it cannot send this load."""
        ...

    async def round(self, assigned: Assignment) -> Round:
        """Warm up, send one round and wait for its last answer. Failed requests are samples; UserError
        only if nothing could be measured.
        """
        ...


engines: LazyRegistry[Callable[[str | None], Engine]] = LazyRegistry(
    "load tester",
    "lathe.serving.loadtest.engines",
    "lathe.load_testers",
    lambda _name, value: callable(value),
)
"""Every load tester by the name that `loadtest --engine` takes, as a function of the path of its program."""


def find_engine(name: str, program: str | None = None) -> Engine:
    """Returns the load tester of a name.

    Args:
        name: one of `engines`.
        program: the path of its own program, if it has one; None: the one on PATH.

    Raises:
        UserError: there is no such load tester, or its program is not found.
    """
    return engines.get(name)(program)
