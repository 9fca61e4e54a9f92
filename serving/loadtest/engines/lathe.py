"""Our own load tester."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from compressor.errors import UserError

from ..assignment import Assignment
from ..drive import drive
from ..load import Load
from ..measure import Round


@dataclass(frozen=True)
class Own:
    """Requests sent and timed by this process."""

    name: str = "lathe"
    definitions: Mapping[str, str] = field(default_factory=dict)

    def check(self, load: Load) -> None:
        """Every load can be sent."""

    async def round(self, assigned: Assignment) -> Round:
        return await drive(assigned)


def make(program: str | None) -> Own:
    if program is not None:
        raise UserError("--guidellm is the program of another load tester", "Add --engine guidellm.")
    return Own()
