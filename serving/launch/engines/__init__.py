"""Engines: one package each, found by name."""
