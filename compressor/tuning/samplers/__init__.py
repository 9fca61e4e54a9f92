"""Samplers, one registered file each: they choose the points that are tried."""
