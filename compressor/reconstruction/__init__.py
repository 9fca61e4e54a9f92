"""Least-squares correction of kept output projections, from statistics of what was pruned."""

from lathe.compressor.reconstruction.closed_form import (
    DAMPINGS,
    ProjectionPruner,
    best_damping,
    choose_damping,
    damped,
    random_projection,
    reconstruct,
    reconstruction_error,
)

__all__ = [
    "DAMPINGS",
    "ProjectionPruner",
    "best_damping",
    "choose_damping",
    "damped",
    "random_projection",
    "reconstruct",
    "reconstruction_error",
]
