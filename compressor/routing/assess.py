"""How a router does on text that it was not trained on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from statistics import median
from typing import Any

import numpy as np
import torch

from lathe.artefact.router import Router
from lathe.compressor.routing.features import lengths_in

_REPEATS = 200


def assess(router: Router, heldout: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Returns the router's accuracy by length, where excerpts of each domain go, and its time for a prompt.

    Args:
        router: The router.
        heldout: Windows [B, T] of each domain, by the name of its subnet.
    """
    goes_to = {name: dict.fromkeys((*router.plans, router.fallback), 0) for name in heldout}
    right: dict[int, list[bool]] = {}
    for name, windows in heldout.items():
        for length in lengths_in(windows.shape[1]):
            for prompt in windows.unfold(1, length, length).flatten(0, 1).numpy():
                route = router(prompt)
                goes_to[name][route.plan] += 1
                right.setdefault(length, []).append(route.likeliest == name)
    every = [one for found in right.values() for one in found]
    return {
        "accuracy": sum(every) / len(every),
        "accuracy_by_tokens": {str(length): sum(found) / len(found) for length, found in right.items()},
        "confusion": goes_to,
        "microseconds": _microseconds(router, next(iter(heldout.values()))[0].numpy()),
    }


def _microseconds(router: Router, prompt: np.ndarray) -> float:
    """Returns the median time to route a prompt."""
    ids, seconds = prompt.tolist(), []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        router(ids)
        seconds.append(time.perf_counter() - start)
    return 1e6 * median(seconds)
