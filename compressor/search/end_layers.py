"""The layers that no other stands in for: the first tenth of a model and the last layer.

GISP's authors cut them last (arXiv 2510.18030, their code).
"""

from __future__ import annotations

_FIRST = 0.1


def end_layers(layers: int) -> frozenset[int]:
    """Returns the indices of these layers in a model of so many."""
    return frozenset({*range(int(_FIRST * layers)), layers - 1})
