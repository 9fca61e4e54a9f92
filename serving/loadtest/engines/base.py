"""What a load tester has to do, and how one is found."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Protocol

from lathe.artefact.errors import UserError
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


def available_engines() -> list[str]:
    """Names of the engines; imports none of them."""
    package = importlib.import_module("lathe.serving.loadtest.engines")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if m.name != "base")


def find_engine(name: str, program: str | None = None) -> Engine:
    """The engine `name`: what `make(program)` in its module gives. `program` is the path of the engine's
    own program, for one that has one.

    Raises:
        UserError: there is no such engine, or its program is not found.
    """
    if name not in available_engines():
        raise UserError(f"There is no load tester {name!r}", f"Known: {', '.join(available_engines())}.")
    made: Engine = importlib.import_module(f"lathe.serving.loadtest.engines.{name}").make(program)
    return made
