"""Widths and bits searched together, against pruning alone, rounding alone, and one after the other."""
