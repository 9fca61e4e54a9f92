"""The default method with one part taken out, under names of their own."""

from __future__ import annotations

from dataclasses import replace

from compressor.search.method import Found, Problem, methods
from compressor.search.methods.paper import Breeder

_LATHE = methods.get("lathe")


def uniform(problem: Problem) -> Found:
    """No search: the same widths in every layer, the largest that fit, heads and channels kept alike."""
    candidate = Breeder(problem).uniform()
    return Found(candidate.plan, list(candidate.selections), float("nan"), 0)


methods.add("lathe-uniform", replace(_LATHE, name="lathe-uniform", search=uniform))
methods.add("lathe-knapsack", replace(_LATHE, name="lathe-knapsack", default_evaluations=1))
methods.add("lathe-paper-order", replace(_LATHE, name="lathe-paper-order", order="paper"))
methods.add("lathe-closed-form", replace(_LATHE, name="lathe-closed-form", reform="closed-form"))
methods.add("lathe-no-reform", replace(_LATHE, name="lathe-no-reform", reform="none"))
methods.add(
    "lathe-uniform-closed-form",
    replace(_LATHE, name="lathe-uniform-closed-form", search=uniform, reform="closed-form"),
)
