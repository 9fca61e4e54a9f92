"""The choice of the subnet for a request that names none."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client.registry import Collector

from lathe.artefact.errors import UserError
from lathe.artefact.family import Family, FamilyPlan
from lathe.artefact.registry import LazyRegistry
from lathe.serving.backend import GenerationRequest, Observer, ServingBackend
from lathe.serving.options import ServeOptions


@dataclass(frozen=True, slots=True)
class Choice:
    """A subnet, and why it is that one.

    Attributes:
        subnet: the name of its plan.
        reason: some words, in ASCII; clients get them in a header.
    """

    subnet: str
    reason: str


class Chooser(ABC):
    """Chooses for requests as they come. `choose` may be called from any thread.

    Attributes:
        backends: the engines, by the names of the plans; none before they are open.
    """

    backends: Mapping[str, ServingBackend] = {}

    @abstractmethod
    def choose(self, requests: Sequence[GenerationRequest]) -> Choice:
        """Returns the subnet that answers all sequences of a call.

        Without requests, it is the one that answers most: calls that are refused before they have become
        requests are counted as its own.
        """

    def observer(self, subnet: str, metrics: Observer) -> Observer:  # noqa: ARG002
        """Returns what is told about the sequences of a subnet, and tells `metrics`."""
        return metrics

    def watch(self, backends: Mapping[str, ServingBackend]) -> None:
        """Is given the engines, by the names of the plans, once they are open."""
        self.backends = backends

    def collector(self, model: str) -> Collector | None:  # noqa: ARG002
        """Returns its own metrics, labelled with the family's name, if it has any."""
        return None

    def close(self) -> None:
        """Stops what runs beside, and lets go of the engines."""
        self.backends = {}


choosers: LazyRegistry[Callable[[Family, ServeOptions], Chooser]] = LazyRegistry(
    "way to switch",
    "lathe.serving.switching.choosers",
    "lathe.choosers",
    lambda _name, value: callable(value),
)
"""Every chooser by the name that `--switch` takes, as a function of the family and the options.

It raises `UserError` where it cannot work with them.
"""


def general_plans(family: Family) -> tuple[FamilyPlan, ...]:
    """Returns the plans for any text, widest first; all where each is for a domain."""
    return tuple(plan for plan in family.plans if plan.domain is None) or family.plans


def refuse_slo(name: str, options: ServeOptions) -> None:
    """Checks that limits are not given to a chooser that knows none.

    Raises:
        UserError: they are.
    """
    if options.slo is not None:
        raise UserError(f"--switch {name} does not take --slo", "It is for --switch slo.")
