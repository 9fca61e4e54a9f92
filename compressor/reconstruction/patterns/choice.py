"""Which weights of every group stay: those with the highest scores."""

from __future__ import annotations

import torch

from lathe.compressor.model.pattern import Pattern


def highest(scores_RC: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """Returns which weights stay, [R, C] bool: those with the highest scores of their group.

    Of equal ones the first stay. Comparing all pairs is faster than sorting groups so small.
    """
    places = scores_RC.unflatten(1, (-1, pattern.group)).unbind(-1)
    kept = []
    for at, own in enumerate(places):
        above = torch.zeros_like(own, dtype=torch.int8)
        for other, score in enumerate(places):
            if other != at:
                above += score >= own if other < at else score > own
        kept.append(above < pattern.kept)
    return torch.stack(kept, -1).flatten(1)
