"""The engines: methods of `compress`, each with a number of evaluations."""

from __future__ import annotations

from dataclasses import dataclass

from lathe.artefact.errors import UserError
from lathe.compressor.search.method import Method, methods

DEFAULT = (
    "lathe",
    "quick",
    "lathe:200",
    "policy-gradient",
    "evopress",
    "tyr",
    "gisp",
    "grasprune",
    "paper:200",
)
"""The knapsack on five and on two measured levels, an evolution from it, and the engines of others."""


@dataclass(frozen=True)
class Engine:
    """A method by its name, and how much it may evaluate; None leaves that to the method."""

    name: str
    method: Method
    evaluations: int | None = None


def parse_engines(text: str) -> list[Engine]:
    """Returns the engines of `method` and `method:evaluations`, with commas.

    Raises:
        UserError: there is no such method, or the number is none.
    """
    engines = []
    for name in text.split(","):
        method, _, number = name.partition(":")
        if ":" in name and not (number.isdecimal() and int(number)):
            raise UserError(f"`{name}` has no number of evaluations after the colon", "Such as lathe:200.")
        engines.append(Engine(name, methods.get(method), int(number) if number else None))
    return engines
