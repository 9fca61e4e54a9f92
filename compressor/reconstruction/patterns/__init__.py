"""Weights removed in an N:M pattern: which of every group, and what the others become."""
