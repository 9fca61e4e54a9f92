"""Least-squares correction of kept output projections from the statistics of what was omitted."""

from lathe.compressor.reconstruction.closed_form import (
    DAMPINGS,
    Reforms,
    choose_damping,
    damped,
    least,
    reconstruction_error,
    reform,
    sketch,
)

__all__ = [
    "DAMPINGS",
    "Reforms",
    "choose_damping",
    "damped",
    "least",
    "reconstruction_error",
    "reform",
    "sketch",
]
