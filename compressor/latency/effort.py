"""How precisely latency is measured, and how long that may take."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lathe.artefact.errors import UserError

SECONDS = 60.0
"""The time to measure a table in, unless told otherwise."""


@dataclass(frozen=True)
class Effort:
    """How often the models of a group are loaded and timed.

    There are at least `loads` loads, and more until the standard error of every ratio to the reference is
    within `precision`, or there were `most`. Of more than two, none begins that would not end within
    `seconds`, of which every group has an equal share of what the earlier ones left.
    """

    loads: int
    most: int
    precision: float
    seconds: float


TABLE, PROOF = Effort(4, 12, 0.01, SECONDS), Effort(6, 16, 0.005, SECONDS / 2)
QUICK = Effort(2, 2, math.inf, 0.0)


def check_seconds(seconds: float) -> None:
    """Refuses a time to measure in that is none.

    Raises:
        UserError: it is not.
    """
    if not 0 < seconds < math.inf:
        raise UserError(f"--measure-seconds {seconds:g} is not a time", "Give seconds, such as 60.")
