"""What the tests of clients share: the served model, and what a client was told that it used."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel

URL, MODEL = os.environ["LATHE_URL"], os.environ["LATHE_MODEL"]
HELLO = "Once there was a fox. It ran!"
WEATHER = "It is sunny in Rome and wet in Paris."
ROME, PARIS = {"city": "Rome", "days": 3}, {"city": "Paris", "days": 2}
Count = Callable[..., None]


class Stop(BaseModel):
    name: str
    hours: float


class Trip(BaseModel):
    """A journey to one city."""

    city: Literal["Rome", "Paris"]
    days: int
    stops: list[Stop]


class Place(BaseModel):
    """Where to go; nothing in it may be long."""

    city: Literal["Rome", "Paris"]
    days: Literal[1, 2, 3]
    by_train: bool


TRIP = Trip(city="Rome", days=3, stops=[Stop(name="Forum", hours=2.5)])


@pytest.fixture(scope="session", autouse=True)
def count() -> Iterator[Count]:
    """Call it with the tokens of each answer's usage; they are compared with the server's counts."""
    total = {"requests": 0, "prompt": 0, "completion": 0}

    def add(prompt: int, completion: int, requests: int = 1) -> None:
        assert prompt > 0
        assert completion > 0
        for key, value in (("requests", requests), ("prompt", prompt), ("completion", completion)):
            total[key] += value

    yield add
    Path(os.environ["LATHE_USAGE"]).write_text(json.dumps(total))
