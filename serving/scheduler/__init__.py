"""Continuous batching over the slots of an engine."""
