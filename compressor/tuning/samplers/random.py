"""Points at random, each as likely as any other: what the others are compared with."""

from __future__ import annotations

from lathe.compressor.tuning.sampler import Sampler, samplers
from lathe.compressor.tuning.search import Search


def search(found: Search) -> None:
    """Draws a point for every trial."""
    from optuna.samplers import RandomSampler

    while found.more:
        found.ask(RandomSampler(seed=found.next_seed))


samplers.add("random", Sampler(search))
