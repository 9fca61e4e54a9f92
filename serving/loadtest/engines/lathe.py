"""Our own load tester."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lathe.artefact.errors import UserError
from lathe.serving.loadtest.engine import RoundSpec, engines
from lathe.serving.loadtest.load import Load
from lathe.serving.loadtest.measure import Round
from lathe.serving.loadtest.runner import run_round


@dataclass(frozen=True)
class BuiltinLoadTester:
    """Sends and times requests in this process."""

    name: str = "lathe"
    definitions: Mapping[str, str] = field(default_factory=dict)

    def check(self, load: Load) -> None:
        """Accepts every load."""

    async def round(self, spec: RoundSpec) -> Round:
        return await run_round(spec)


@engines.register("lathe")
def make(program: str | None) -> BuiltinLoadTester:
    """Returns our load tester, which has no program of its own.

    Raises:
        UserError: one is given.
    """
    if program is not None:
        raise UserError("--guidellm is the program of another load tester", "Add --engine guidellm.")
    return BuiltinLoadTester()
