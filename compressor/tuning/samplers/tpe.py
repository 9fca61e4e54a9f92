"""The tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011), as Optuna has it."""

from __future__ import annotations

from lathe.compressor.tuning.sampler import Sampler, samplers
from lathe.compressor.tuning.search import Search

_STARTUP = 8
"""Random trials before the estimator is asked."""


def search(found: Search) -> None:
    """Asks an estimator of its own for every trial, so that a resumed search goes on as it would have."""
    from optuna.samplers import TPESampler

    while found.more:
        found.ask(TPESampler(seed=found.next_seed, n_startup_trials=_STARTUP))


samplers.add("tpe", Sampler(search))
