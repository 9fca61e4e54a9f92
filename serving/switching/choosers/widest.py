"""Always the widest subnet, as long as nothing else is asked for."""

from __future__ import annotations

from collections.abc import Sequence

from lathe.artefact.family import Family
from lathe.serving.backend import GenerationRequest
from lathe.serving.options import ServeOptions
from lathe.serving.switching.chooser import Choice, Chooser, choosers, general_plans, refuse_slo

NAME = "widest"


class Widest(Chooser):
    """Chooses the first plan for any text."""

    def __init__(self, family: Family) -> None:
        self._choice = Choice(general_plans(family)[0].name, NAME)

    def choose(self, requests: Sequence[GenerationRequest]) -> Choice:  # noqa: ARG002
        return self._choice


@choosers.register(NAME)
def make(family: Family, options: ServeOptions) -> Widest:
    """Makes the chooser.

    Raises:
        UserError: an option belongs to another one.
    """
    refuse_slo(NAME, options)
    return Widest(family)
