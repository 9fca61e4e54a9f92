"""Our own load tester."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import httpx

from compressor.errors import UserError

from ..client import Sample, Target
from ..drive import drive
from ..load import Load
from ..measure import Round
from ..prompts import Prompts


@dataclass(frozen=True)
class Own:
    """Requests sent and timed by this process."""

    name: str = "lathe"
    definitions: Mapping[str, str] = field(default_factory=dict)

    def check(self, load: Load) -> None:
        """Every load can be sent."""

    async def round(
        self,
        http: httpx.AsyncClient,
        target: Target,
        load: Load,
        prompts: Prompts,
        seed: int,
        on_done: Callable[[Sample], None],
    ) -> Round:
        return await drive(http, target, load, prompts, seed, on_done)


def make(program: str | None) -> Own:
    if program is not None:
        raise UserError("--guidellm is the program of another load tester", "Add --engine guidellm.")
    return Own()
