"""What one round of load consists of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import httpx

from lathe.serving.loadtest.client import Target
from lathe.serving.loadtest.load import Load
from lathe.serving.loadtest.prompts import Prompts
from lathe.serving.loadtest.sample import Sample


def _nobody(_: Sample) -> None:
    """Hears of a request and does nothing."""


@dataclass(frozen=True)
class Assignment:
    """Send `load` to `target` once; the seed sets the prompts and the arrival times. `on_done` hears of every
    measured request.
    """

    http: httpx.AsyncClient
    target: Target
    load: Load
    prompts: Prompts
    seed: int
    on_done: Callable[[Sample], None] = _nobody
