"""`--switch domain`: the subnet of the domain that the prompt is of, by the family's router."""

from __future__ import annotations

from collections.abc import Sequence

from lathe.artefact.errors import UserError
from lathe.artefact.family import Family
from lathe.artefact.router import Route, Router, read_router
from lathe.serving.backend import GenerationRequest
from lathe.serving.options import ServeOptions
from lathe.serving.switching.chooser import Choice, Chooser, choosers, refuse_slo

NAME = "domain"


class DomainChooser(Chooser):
    """Asks a router with the prompt; prompts of one call that go apart get the general subnet."""

    def __init__(self, router: Router) -> None:
        self._router = router

    def choose(self, requests: Sequence[GenerationRequest]) -> Choice:
        routes = [self._router(request.prompt) for request in requests if request.choice == 0]
        plans = {route.plan for route in routes}
        if len(plans) == 1:
            return Choice(plans.pop(), f"{NAME}: {self._why(routes[0])}")
        return Choice(self._router.fallback, f"{NAME}: {'prompts of several' if plans else 'no prompt'}")

    def _why(self, route: Route) -> str:
        seen = f"{route.likeliest} at {route.probability:.0%}"
        if route.plan == route.likeliest:
            return seen
        if route.threshold > 1:
            return f"{seen}, where general is better"
        return f"{seen}, not the {route.threshold:.0%} that it needs"


@choosers.register(NAME)
def make(family: Family, options: ServeOptions) -> DomainChooser:
    """Makes the chooser.

    Raises:
        UserError: the family has no router or a damaged one, or an option belongs to another chooser.
    """
    refuse_slo(NAME, options)
    router = read_router(family)
    if router is None:
        raise UserError(
            f"{family.path} has no router", f"Serve it without --switch {NAME}, or `compress --domain`."
        )
    return DomainChooser(router)
