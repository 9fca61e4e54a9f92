"""Least-squares correction of kept output projections from the statistics of what was omitted."""

from compressor.reform.closed_form import DAMPINGS, choose_damping, damped, reconstruction_error, reform

__all__ = ["DAMPINGS", "choose_damping", "damped", "reconstruction_error", "reform"]
