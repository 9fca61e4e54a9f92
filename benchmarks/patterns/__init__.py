"""Weights in N:M patterns: what methods lose, and what engines gain by the zeros."""
