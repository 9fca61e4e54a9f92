"""Our own load tester."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lathe.artefact.errors import UserError
from lathe.serving.loadtest.engine import engines
from lathe.serving.loadtest.load import Load
from lathe.serving.loadtest.measure import Round
from lathe.serving.loadtest.round_spec import Assignment
from lathe.serving.loadtest.runner import drive


@dataclass(frozen=True)
class BuiltinEngine:
    """Requests sent and timed by this process."""

    name: str = "lathe"
    definitions: Mapping[str, str] = field(default_factory=dict)

    def check(self, load: Load) -> None:
        """Every load can be sent."""

    async def round(self, assigned: Assignment) -> Round:
        return await drive(assigned)


@engines.register("lathe")
def make(program: str | None) -> BuiltinEngine:
    """Returns our load tester, which has no program of its own.

    Raises:
        UserError: one is given.
    """
    if program is not None:
        raise UserError("--guidellm is the program of another load tester", "Add --engine guidellm.")
    return BuiltinEngine()
