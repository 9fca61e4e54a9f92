"""Engines whose speed can be measured, one registered file each."""
