"""Least-squares correction of kept output projections from the statistics of what was omitted."""

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
    "choose_damping",
    "damped",
    "best_damping",
    "reconstruction_error",
    "reconstruct",
    "random_projection",
]
